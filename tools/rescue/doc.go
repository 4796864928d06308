// Package rescue holds rescue.py, a second reader of vaults in Python, and the
// tests that compare it with the agent. It has no code of its own.
//
// The reader is written from docs/FORMAT.md alone and shares nothing with the
// agent, so that what both read alike is what the document says. See README.md.
package rescue
