package manifest

import "errors"

var (
	errExtentLength = errors.New("extent of a length that none has")
	errTwoHoles     = errors.New("two holes in a row")
	errFileSize     = errors.New("file is too large")
)

// extentSum adds up the extents of a file and checks each and their order.
type extentSum struct {
	bytes uint64
	count uint64
	hole  bool // the last one was a hole
}

func (s *extentSum) add(x Extent) error {
	hole := x.Hole()
	switch {
	case x.Length == 0 || !hole && x.Length > maxChunkBytes || x.Length > MaxFileBytes:
		return errExtentLength
	case hole && s.hole:
		return errTwoHoles
	case x.Length > MaxFileBytes-s.bytes:
		return errFileSize
	}
	s.bytes += x.Length
	s.count++
	s.hole = hole
	return nil
}
