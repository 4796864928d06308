package source

// Op is a kind of step in the reading of a source.
type Op string

// The steps, each right after what it says, but for OpAttrs.
const (
	OpListed  Op = "listed"  // a folder's names were read, and none was looked at yet
	OpStatted Op = "statted" // a name's metadata was read
	OpOpened  Op = "opened"  // a file was opened, and its metadata read
	OpRead    Op = "read"    // a piece of a file was read
	OpChecked Op = "checked" // an open file's metadata was read once more
	OpAttrs   Op = "attrs"   // extended attributes are about to be read
	OpClosed  Op = "closed"  // a file was closed
)

// Step is a moment at which somebody else may change what is being read.
type Step struct {
	Op   Op
	Path string // of the folder, or of the name
}

// Hook is told of the steps of one walk and of the files opened by way of it, for
// tests: at the same time from several goroutines, which wait for it. With a hook
// files are read in pieces, so that there is a middle of the smallest one.
type Hook func(Step)
