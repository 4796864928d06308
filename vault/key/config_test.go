package key

import (
	"bytes"
	"errors"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
)

var sampleConfig = Config{Vault: VaultID{1, 2, 3}, Cut: chunk.DefaultCutParams}

func configObject(t testing.TB, c Config) []byte {
	t.Helper()
	b, err := AppendConfig(nil, c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConfigRoundTrip(t *testing.T) {
	owned := sampleConfig
	owned.Mode, owned.Owner = ModeOwner, [16]byte{9}
	for _, c := range []Config{sampleConfig, owned} {
		b := configObject(t, c)
		got, err := ParseConfig(b)
		if err != nil || got != c || len(b) != ConfigBytes {
			t.Fatalf("%d bytes: %+v, %v", len(b), got, err)
		}
	}
}

func TestAppendConfigRejects(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no vault":       func(c *Config) { c.Vault = VaultID{} },
		"unknown mode":   func(c *Config) { c.Mode = 2 },
		"owner, shared":  func(c *Config) { c.Owner[0] = 1 },
		"no owner":       func(c *Config) { c.Mode = ModeOwner },
		"no cut":         func(c *Config) { c.Cut = chunk.CutParams{} },
		"min above max":  func(c *Config) { c.Cut.Min = c.Cut.Max + 1 },
		"max over 8 MiB": func(c *Config) { c.Cut.Max = 8<<20 + 1 },
	} {
		c := sampleConfig
		change(&c)
		if _, err := AppendConfig(nil, c); err == nil {
			t.Errorf("%s is written", name)
		}
	}
}

func TestParseConfigRejects(t *testing.T) {
	b := configObject(t, sampleConfig)
	for name, test := range map[string]struct {
		at   int
		to   byte
		want error
	}{
		"magic":             {0, 'X', ErrDamaged},
		"version":           {4, 1, ErrNewer},
		"type":              {5, TypeSlot, ErrDamaged},
		"suite 0":           {22, 0, ErrDamaged},
		"suite 2":           {22, 2, ErrNewer},
		"mode 2":            {24, 2, ErrNewer},
		"mode 1, no owner":  {24, 1, ErrDamaged},
		"mode 0, an owner":  {25, 1, ErrDamaged},
		"chunker 0":         {41, 0, ErrDamaged},
		"chunker 2":         {41, 2, ErrNewer},
		"minimum":           {45, 1, ErrDamaged},
		"maximum":           {49, 1, ErrDamaged},
		"bits":              {50, 25, ErrDamaged},
		"compression 0":     {51, 0, ErrDamaged},
		"compression 2":     {51, 2, ErrNewer},
		"newer, other size": {-1, 0, ErrNewer},
	} {
		c := bytes.Clone(b)
		if test.at >= 0 {
			c[test.at] = test.to
		} else {
			c[4] = 1
			c = append(c, 0)
		}
		if _, err := ParseConfig(c); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for n := range b {
		if _, err := ParseConfig(b[:n]); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d: %v", n, err)
		}
	}
	if _, err := ParseConfig(append(b, 0)); !errors.Is(err, ErrDamaged) {
		t.Errorf("a trailing byte: %v", err)
	}
}

// TestConfigCanonical: what parses is what a writer writes, so that no bit can
// change unnoticed by whoever compares the parsed values.
func TestConfigCanonical(t *testing.T) {
	b := configObject(t, sampleConfig)
	for bit := range len(b) * 8 {
		flipped := bytes.Clone(b)
		flipped[bit/8] ^= 1 << (bit % 8)
		c, err := ParseConfig(flipped)
		if err == nil && c == sampleConfig {
			t.Errorf("bit %d changes nothing", bit)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(configObject(f, sampleConfig))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
				t.Fatal(err)
			}
			return
		}
		if again := configObject(t, c); !bytes.Equal(again, b) {
			t.Fatalf("%x is written as %x", b, again)
		}
	})
}
