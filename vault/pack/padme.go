package pack

import "math/bits"

// padmeStep is the distance of Padmé sizes near length (docs/FORMAT.md §6.3):
// with E = floor(log2 length) and S = floor(log2 E) + 1, the low E - S bits of a
// size are zero. A size so tells only O(log log length) bits, at a cost of at
// most 12 %, and of 3 % from 64 KiB on.
func padmeStep(length uint64) uint64 {
	if length < 4 {
		return 1
	}
	e := bits.Len64(length) - 1
	return 1 << (e - bits.Len(uint(e)))
}

// PaddedLength is the smallest Padmé size that is not below length, which is at
// most 2^62.
func PaddedLength(length uint64) uint64 {
	step := padmeStep(length)
	return (length + step - 1) &^ (step - 1)
}

// IsPadded tells whether length is a Padmé size.
func IsPadded(length uint64) bool { return length%padmeStep(length) == 0 }

// The size at which a pack is closed. Padding is smallest where a record ends
// just below a Padmé size, so a pack may close between 5/8 and 5/4 of its target,
// and does so at the first end that is better than what waiting promises: with n
// more tries of a padding that is uniform between 0 and a step, waiting gives
// about 2/(n+3) of the step. A step is 1/32 of the size right above a power of
// two and 1/64 right below the next, 1/48 in the mean. Simulated with a target of
// 16 MiB: segments of 60-300 KiB are padded by 0.08 %, chunks of 0.5-4 MiB with a
// mean of 1.5 by 0.5 %, and packs have 14 MiB in the mean.
func closeHere(size, records, target uint64) bool {
	low, high := target/8*5, target/4*5
	if size < low {
		return false
	}
	if size >= high {
		return true
	}
	tries := (high - size) / (size / records)
	padding := PaddedLength(size) - size
	return padding*48*(tries+3) <= 2*size
}
