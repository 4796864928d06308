// Package key opens a vault: it reads and writes the config and the key slots,
// and derives all keys of the vault from its root key. docs/FORMAT.md §2 to §5.
//
// A [Slot] seals the [Secrets] of a vault (root key, admin seed, recovery key)
// under one [Credential]: a passphrase, stretched by Argon2id, or the recovery key.
// [NewRing] turns the root key into the keys of chunks, pages and objects. The
// first bytes of every object are written and checked by [AppendHeader] and
// [CheckHeader].
//
// On disk: config is 52 bytes in the clear, a slot is 236, the header of a sealed
// object 40.
//
// Errors: [ErrNewer] and [ErrDamaged] for objects, [ErrWrongKey] for a credential
// that does not open a slot, [ErrPassphrase] and [ErrMistyped] for what a user typed.
//
// Concurrency: all values are immutable once made and may be shared. Opening a
// slot of a passphrase takes the slot's memory (256 MiB by default) for about half
// a second; callers do it one at a time. The memory is given back before it returns.
//
// Security: the config and the slots are not authenticated by themselves. The vault's
// log holds their hashes, and a reader that has opened a slot must compare them.
// Limits are checked before memory is taken. Go can't reliably wipe memory, so that
// secrets stay in it until it is reused. No secret is printed by %v but a
// RecoveryKey, whose String is meant to be shown.
//
// The package stores nothing and asks nobody: see agent/home for the key at rest,
// and cmd/agent for reading a passphrase.
package key
