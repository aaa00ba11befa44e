package tomlfile
import ("testing";"time";"strings";"fmt";"runtime";"github.com/BurntSushi/toml")
func TestTmpSpeed(t *testing.T) {
	var keys, unk strings.Builder
	keys.WriteString("[meta-data]\n")
	for i:=0; keys.Len() < 8<<20; i++ { fmt.Fprintf(&keys, "k%d=1\n", i) }
	for i:=0; unk.Len() < 8<<20; i++ { fmt.Fprintf(&unk, "k%d=1\n", i) }
	long := "[meta-data."+strings.Repeat("a",3900)+"]\n"
	var lk strings.Builder
	lk.WriteString(long)
	for i:=0; lk.Len() < 2<<20; i++ { fmt.Fprintf(&lk, "k%d=1\n", i) }
	for name, s := range map[string]string{
		"arr": "a=["+strings.Repeat("1,", 4<<20)+"]", "keys": keys.String(), "unknown": unk.String(),
		"aot": strings.Repeat("[[access]]\n", 700000), "long2MiB": lk.String(),
		"nest": "a=["+strings.Repeat(strings.Repeat("[",60)+strings.Repeat("]",60)+",", 8<<20/121)+"]",
	} {
		var m0, m1 runtime.MemStats
		runtime.GC(); runtime.ReadMemStats(&m0)
		s0 := time.Now(); x := indexLines(s); d0 := time.Since(s0); _ = x
		s1 := time.Now(); toml.Decode(s, new(map[string]any)); d1 := time.Since(s1)
		s2 := time.Now(); _, err := decode("x", s, time.Time{}); d2 := time.Since(s2)
		runtime.ReadMemStats(&m1)
		n := 0; if err != nil { n = len(faultsOf(t, err)) }
		t.Logf("%s index %v parser %v all %v faults %d alloc %d MB", name, d0, d1, d2, n, (m1.TotalAlloc-m0.TotalAlloc)>>20)
	}
}
func FuzzTmpPanic(f *testing.F) {
	for _, text := range seeds(f) { f.Add(text) }
	f.Fuzz(func(t *testing.T, text string) { if indexLines(text).tooDeep == 0 { toml.Decode(text, new(map[string]any)) } })
}
