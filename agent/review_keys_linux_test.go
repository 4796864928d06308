package agent

import (
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// Two who take each other's key out of use at the same time don't lock both
// out: who comes second has no key any more that says he may.
func TestKeysRemovedAtTheSameTime(t *testing.T) {
	const other = "another passphrase for tests 8642"
	for name, second := range map[string]func(s *Session, mine string) error{
		"removed": func(s *Session, mine string) error { return s.RemoveKey(t.Context(), other, mine) },
		"changed": func(s *Session, _ string) error {
			return s.ChangePassphrase(t.Context(), KeyChange{Current: other, New: "yet another passphrase 97531", KDF: faultKDF})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			var keys []KeyInfo
			must(t, r.session(t.Context(), func(s *Session) error {
				err := s.AddPassphrase(t.Context(), KeyChange{Current: testPassphrase, New: other, KDF: faultKDF})
				keys = s.Keys()
				return err
			}))
			p, between := r.peer("second"), false
			must(t, p.session(t.Context(), func(*Session) error { return nil })) // enrols it
			p.env.Wrap = func(b backend.Backend) backend.Backend {
				return fault.New(b, func(op fault.Op) fault.Action {
					if op.Kind == fault.Put && strings.HasPrefix(op.Name, "log/") && !op.After && !between {
						between = true
						must(t, r.session(t.Context(), func(s *Session) error {
							for _, k := range keys[1:] {
								must(t, s.RemoveKey(t.Context(), testPassphrase, k.ID))
							}
							return nil
						}))
					}
					return fault.Action{}
				})
			}
			err := p.session(t.Context(), func(s *Session) error { return second(s, keys[0].ID) })
			if !between || !errors.Is(err, key.ErrWrongKey) {
				t.Errorf("with a key that was taken out of use: %v", err)
			}
			must(t, r.peer("third").session(t.Context(), func(*Session) error { return nil }))
		})
	}
}

// Slots that killed changes left don't keep those out who have a key.
func TestSlotsOfKilledChanges(t *testing.T) {
	r := newRig(t)
	with, err := key.NewPassphrase([]byte("another passphrase for tests 8642"))
	must(t, err)
	must(t, r.session(t.Context(), func(s *Session) error {
		sec, _, err := s.authorize(t.Context(), testPassphrase)
		for range log.MaxSlots + 2 {
			if err == nil {
				_, err = vault.PutSlot(t.Context(), s.backend, s.vault.Config.Vault, faultKDF, with, sec, s.now(), "", rand.Reader)
			}
		}
		return err
	}))
	must(t, r.peer("new").session(t.Context(), func(*Session) error { return nil }))
}
