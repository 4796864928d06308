package source

import "strings"

// step tells the hook, if there is one, of a name of the folder, or of the folder
// itself.
func (d *Dir) step(op Op, name string) {
	if hook := d.tree.hook; hook != nil {
		hook(Step{Op: op, Path: d.path(name)})
	}
}

// path is the absolute path of a name of the folder, or of the folder itself.
func (d *Dir) path(name string) string {
	if d.depth < 0 {
		return d.tree.root
	}
	path := d.tree.Path(d.key())
	if name == "" {
		return path
	}
	return strings.TrimSuffix(path, "/") + "/" + name
}

// step tells the hook of a file.
func (f *File) step(op Op) {
	if f.hooked() {
		f.tree.hook(Step{Op: op, Path: f.path})
	}
}

// hooked tells whether somebody is told of the file's steps.
func (f *File) hooked() bool { return f.tree != nil && f.tree.hook != nil }
