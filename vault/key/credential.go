package key

// Credential is what opens a slot: a passphrase or a recovery key. The zero value
// opens none. It does not print its secret.
type Credential struct {
	kind   SlotKind
	secret string
}

// ParseCredential takes what a user gave to open a vault: a recovery key where it
// looks like one, else a passphrase. It returns ErrMistyped or ErrPassphrase where no
// slot can be opened by it.
func ParseCredential(typed []byte) (Credential, error) {
	if LooksLikeRecoveryKey(string(typed)) {
		k, err := ParseRecoveryKey(string(typed))
		if err != nil {
			return Credential{}, err
		}
		return k.Credential(), nil
	}
	p, err := NormalizePassphrase(typed)
	if err != nil {
		return Credential{}, err
	}
	return Credential{KindPassphrase, string(p)}, nil
}

// NewPassphrase takes a passphrase for a new slot. Beyond what NormalizePassphrase
// asks, it returns ErrPassphrase for a trivially weak one.
func NewPassphrase(typed []byte) (Credential, error) {
	p, err := NormalizePassphrase(typed)
	if err != nil {
		return Credential{}, err
	}
	if err := checkStrength(p); err != nil {
		return Credential{}, err
	}
	return Credential{KindPassphrase, string(p)}, nil
}

// Credential makes a credential of the key.
func (k RecoveryKey) Credential() Credential { return Credential{KindRecovery, string(k[:])} }

// Kind tells which slots the credential may open.
func (c Credential) Kind() SlotKind { return c.kind }

// String names the kind, for messages.
func (c Credential) String() string { return c.kind.String() }

// GoString keeps the secret out of %#v.
func (c Credential) GoString() string { return c.String() }
