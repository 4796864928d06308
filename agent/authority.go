package agent

import (
	"context"
	"crypto/ed25519"
	"fmt"
)

// admin is the key that signs what no machine may by its own: purges, sweeps,
// changes of keys, new machines. It is the home's, or a passphrase or recovery
// key is asked for, to do what.
func (s *Session) admin(ctx context.Context, what string) (ed25519.PrivateKey, error) {
	if s.keys.Admin == nil {
		if err := s.unlock(ctx, s.vault.Config, s.named); err != nil {
			return nil, fmt.Errorf("%s: %w", what, err)
		}
	}
	return ed25519.NewKeyFromSeed(s.keys.Admin), nil
}
