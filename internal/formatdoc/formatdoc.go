// Package formatdoc keeps the hex examples of docs/FORMAT.md true: its test makes
// each of them with the real codecs from fixed keys and randomness, opens what it
// made, and compares it with the document. With -update it writes them.
package formatdoc
