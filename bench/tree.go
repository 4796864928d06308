package main

import "context"

// treeRoots are where source trees and what is like them lie on a Debian
// machine with Go, in the order in which they are taken.
var treeRoots = []string{
	"/usr/local/go", "/usr/include", "/usr/src", "/usr/lib/python3", "/usr/lib/python3.11",
	"/usr/lib/python3.13", "/usr/share", "/usr/lib/gcc", "/usr/lib",
}

// treeQuota is a large source tree: 30,000 files and more, 1 to 2 GB.
var treeQuota = quota{files: 30_000, bytes: 1_000_000_000, most: 2_000_000_000}

// times scales a quota.
func (q quota) times(scale float64) quota {
	by := func(n int64) int64 { return max(1, int64(float64(n)*scale)) }
	return quota{files: by(q.files), bytes: by(q.bytes), most: by(q.most)}
}

// buildTree copies a part of the machine's own files.
func buildTree(ctx context.Context, c *corpus, scale float64) error {
	p, err := pick(treeRoots, treeQuota.times(scale))
	if err != nil {
		return err
	}
	c.info.Sources = p.sources
	return p.copyTo(ctx, c.dir)
}
