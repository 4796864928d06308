// Package source is the reading side of a backup: it walks one source (a
// folder, a file or a symlink) in manifest order, leaves out what is excluded,
// and reads files, their metadata and their extended attributes.
//
// # Order
//
// The key of an entry is its path components below the root, as raw bytes,
// joined by 0x00; the root has the empty key. [Tree.Next] yields strictly
// rising keys, so a walk can be merge-joined with a manifest. A folder precedes
// what it holds.
//
// # What is left out
//
// Sockets; what the exclusion rules say (see [Options]); all but the tag of a
// folder marked by a CACHEDIR.TAG; what lies below a mount point (unless
// CrossMounts), a pseudo file system or an automount that nobody triggered.
// Such folders themselves are yielded. A bind mount of the file system that is
// walked can't be told from a folder and is walked.
//
// # Errors
//
// A failure must never look like a deletion: what can't be read is yielded with
// a [State] that says how much is known. [Tree.Next] itself fails only when the
// context ends or the root goes away; a root that is replaced during the walk
// is an error in place of the end.
//
// # Concurrency and bounds
//
// A few readers list and stat folders ahead of Next, each folder in inode
// order, within a fixed amount of memory however many entries a folder or the
// tree has. Next is for one goroutine; [Dir] and [File] are for any, also after
// the walk has moved on, until [Tree.Close]. Folders hold no descriptor of
// their own: at most 32 are open, and others are reopened by way of their
// parents, each checked to be the same folder, so that neither depth nor
// PATH_MAX limits the walk.
//
// # Security
//
// No symlink below the root is followed, only regular files are opened, nothing
// blocks on a FIFO or touches a device, and access times are kept where the
// kernel allows it. Names are any bytes but 0x00 and '/'. What takes a file's place
// between the look at its name and its opening is opened without waiting, found not
// to be a file, and closed unread. A folder that is moved away, even out of the
// source, may be read to its end where it went.
//
// What it doesn't do: decide what changed, read content into chunks, take
// snapshots. It works on Linux; elsewhere [Open] returns an error.
package source

import (
	"errors"
	"log/slog"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// DefaultIgnoreFile is the per-folder file with exclusion patterns.
const DefaultIgnoreFile = ".tharsisignore"

// ErrReplaced says that a name no longer means what it meant when it was
// listed: a folder or file was swapped for another.
var ErrReplaced = errors.New("replaced while it was read")

// ErrRootGone says that the source's root vanished or was replaced during the
// walk, which therefore says nothing about what was deleted.
var ErrRootGone = errors.New("source root went away during the walk")

// Options say what to leave out. The zero value walks one file system and
// heeds DefaultIgnoreFile.
//
// Patterns are those of gitignore, on bytes. Those of ExcludeFiles and then of
// Excludes form one list that goes before all ignore files; of these the
// deepest goes first; within a list the last match decides. A pattern with a
// slash at its start or middle is relative to the root (or the ignore file's
// folder). One that starts with the root's own absolute path means that path.
type Options struct {
	Excludes     []string // each taken as it is: '#' and trailing spaces mean themselves
	ExcludeFiles []string // files of patterns, read by Open
	// IgnoreFileName is the name of the ignore files; empty means
	// DefaultIgnoreFile.
	IgnoreFileName string
	// AlwaysExclude are absolute paths that are never walked whatever the
	// patterns say: the vault, the agent's home. They are recognized by path
	// and, where they exist at Open, by device and inode. A root inside one of
	// them is refused.
	AlwaysExclude []string
	// CrossMounts enters other file systems too, except pseudo file systems.
	CrossMounts bool
	Log         *slog.Logger // nil means no log
	Hook        Hook         // for tests; nil means none
}

// State says how much is known of an Item.
type State uint8

const (
	// Found: Entry describes it. For a folder, what it holds follows.
	Found State = iota
	// Unlisted: Entry describes a folder whose content can't be listed; Err
	// says why. Nothing below it follows.
	Unlisted
	// Unknown: it is there, but what it is can't be told; Err says why. Entry
	// is empty and nothing below it follows.
	Unknown
	// Cut: the rest of a folder that was partly delivered can't be listed; Err
	// says why. Key and Entry.Kind are the folder's, Name is its name, and it
	// is the one item whose key is not above the last one's: all entries below
	// Key and after the last item's key are unknown.
	Cut
	// Skipped: it is there but not stored: a socket, or a file of a pseudo file
	// system. Entry is empty, Err says why.
	Skipped
	// Vanished: it was listed and is gone. Entry is empty.
	Vanished
)

// String names the state.
func (s State) String() string {
	return [...]string{"found", "unlisted", "unknown", "cut", "skipped", "vanished"}[s]
}

// Item is one step of a walk. It belongs to the Tree and is valid until the
// next call of Next; its strings and its Dir may be kept.
type Item struct {
	Key []byte
	// Entry is the metadata without Xattrs and content. FSID is set on a folder
	// that is the root of a file system.
	Entry manifest.Entry
	State State
	// NotEntered marks a found folder that was not entered because it is the
	// root of another file system or an automount: that it shows no content
	// doesn't mean that it has none.
	NotEntered bool
	Err        error
	// Dir and Name say where it is, to open it. For the root, Dir is the folder
	// that holds it.
	Dir  *Dir
	Name string
}
