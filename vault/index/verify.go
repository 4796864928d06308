package index

import (
	"context"
	"fmt"
)

// verifyRecords is of how many records Verify holds the plaintext length at once
// (32 MiB): the chunks are read once for each such window, so once in a vault of
// up to 8 million records.
const verifyRecords = 8 << 20

// Verify reads every byte of the run again, past the cache, and checks all that
// docs/FORMAT.md §7 demands: that each box opens in its place, the order of rows,
// the fences, and that every row points into its record, its pack and the tables.
// It does not look into the packs.
func (r *Run) Verify(ctx context.Context) error { return r.verify(ctx, nil) }

// verify is Verify; sums, if not nil, gathers the rows.
func (r *Run) verify(ctx context.Context, sums *packSums) error {
	if _, err := OpenRun(ctx, r.ring, r.id, r.src, r.layout.size, nil); err != nil {
		return err
	}
	if err := r.verifyRecords(ctx, sums); err != nil {
		return err
	}
	return r.verifyChunks(ctx, verifyRecords, sums)
}

// verifyRecords checks tables 1 and 2 side by side: both are sorted by pack.
func (r *Run) verifyRecords(ctx context.Context, sums *packSums) error {
	packs := newCursor(r, &r.layout.packs, readAheadBytes)
	records := newCursor(r, &r.layout.records, readAheadBytes)
	var p PackRow
	for next, number := uint32(0), uint32(0); ; number++ {
		b, err := records.next(ctx)
		if err != nil || b == nil {
			return err
		}
		rec := parseRecordRow(b)
		for ; next <= rec.Pack; next++ {
			b, err := packs.next(ctx)
			if err != nil {
				return err
			}
			p = parsePackRow(b)
			sums.addPack(&p, number)
		}
		if wrong := rec.checkIn(&p); wrong != "" {
			return fmt.Errorf("verify index run %s: %w", r.id.Short(), damaged("pack %s: %s", p.ID.Short(), wrong))
		}
		sums.addRecord(number, &rec)
	}
}

// verifyChunks checks table 3 against windows of table 2, whose order it does not
// follow.
func (r *Run) verifyChunks(ctx context.Context, window uint32, sums *packSums) error {
	records := newCursor(r, &r.layout.records, readAheadBytes)
	plain := make([]uint32, 0, min(window, r.counts.Records))
	for begin := uint32(0); begin < r.counts.Records; begin += uint32(len(plain)) {
		for plain = plain[:0]; len(plain) < cap(plain); {
			b, err := records.next(ctx)
			if err != nil {
				return err
			}
			if b == nil {
				break
			}
			plain = append(plain, parseRecordRow(b).Plain)
		}
		for row, err := range r.Chunks(ctx) {
			if err != nil {
				return err
			}
			if i := row.Record - begin; i < uint32(len(plain)) { // below begin: wraps
				if wrong := row.checkIn(plain[i]); wrong != "" {
					return fmt.Errorf("verify index run %s: %w", r.id.Short(), damaged("chunk %s: %s", row.ID.Short(), wrong))
				}
				sums.addChunk(&row)
			}
		}
	}
	return nil
}
