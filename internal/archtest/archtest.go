// Package archtest keeps the structure of the project by tests: the direction of
// imports, one package doc each, and the bounds on files and functions that
// docs/ARCHITECTURE.md promises.
package archtest
