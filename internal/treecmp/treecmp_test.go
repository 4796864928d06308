package treecmp

import "testing"

func TestAspectsRoundTrip(t *testing.T) {
	for i := range aspectNames {
		want := Aspect(1<<i) | Missing
		got, err := ParseAspects(want.String())
		if err != nil || got != want {
			t.Errorf("ParseAspects(%q) = %v, %v", want, got, err)
		}
	}
	if none, err := ParseAspects(""); none != 0 || err != nil {
		t.Errorf("ParseAspects(\"\") = %v, %v", none, err)
	}
	if _, err := ParseAspects("owners,owner"); err == nil {
		t.Error("an unknown aspect is accepted")
	}
}
