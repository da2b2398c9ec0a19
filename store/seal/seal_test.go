package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"rebound/store/seal"
)

func sealer(t testing.TB, list ...string) *seal.Sealer {
	t.Helper()
	keys, err := seal.ParseKeys(strings.Join(list, ","))
	require.NoError(t, err)
	s, err := seal.NewSealer(keys)
	require.NoError(t, err)
	return s
}

func TestParseKeys(t *testing.T) {
	t.Parallel()
	good, other := seal.GenerateKey(), seal.GenerateKey()
	raw, err := base64.StdEncoding.DecodeString(good)
	require.NoError(t, err)

	for name, list := range map[string]string{
		"one key":                  good,
		"two keys with spaces":     " " + good + " , " + other + "\n",
		"url alphabet, no padding": base64.RawURLEncoding.EncodeToString(raw),
		"standard, no padding":     base64.RawStdEncoding.EncodeToString(raw),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			keys, err := seal.ParseKeys(list)
			require.NoError(t, err)
			require.Len(t, keys, 1+strings.Count(list, ","))
			want, err := seal.ParseKeys(good)
			require.NoError(t, err)
			require.Equal(t, want[0].ID(), keys[0].ID())
		})
	}

	for name, c := range map[string]struct{ list, want string }{
		"empty list":        {"  ", "no key"},
		"empty item":        {good + ",", "key 2 of 2 is empty"},
		"not base64":        {"!secret!" + good[8:], "key 1 of 1 is not base64"},
		"short":             {base64.StdEncoding.EncodeToString(raw[:16]), "key 1 of 1 has 16 bytes, want 32"},
		"repeated":          {good + "," + good, "key 2 of 2 repeats key 1"},
		"every fault named": {",x" + good + ",", "key 3 of 3 is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := seal.ParseKeys(c.list)
			require.ErrorContains(t, err, c.want)
			for _, item := range strings.Split(c.list, ",") {
				if item = strings.TrimSpace(item); len(item) > 8 {
					require.NotContains(t, err.Error(), item[:8], "the key is echoed")
					require.NotContains(t, err.Error(), item[len(item)-8:], "the key is echoed")
				}
			}
		})
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	t.Parallel()
	text := seal.GenerateKey()
	raw, err := base64.StdEncoding.DecodeString(text)
	require.NoError(t, err)
	keys, err := seal.ParseKeys(text)
	require.NoError(t, err)
	root := seal.NewRootKey()

	asJSON, err := json.Marshal(keys)
	require.NoError(t, err)
	hidden := struct {
		key  seal.Key
		root seal.RootKey
		h    *seal.Hasher
	}{keys[0], root, seal.NewHasher(root)}
	shown := string(asJSON) + fmt.Sprintf("%v %+v %#v %v %+v", hidden, hidden, hidden, hidden.h, hidden.h) + fmt.Sprintf("%v %+v %#v %s %x %d %v %#v", keys, keys[0], keys, keys[0], keys[0], keys[0], root, root)
	require.NotContains(t, shown, text[:10])
	require.NotContains(t, shown, fmt.Sprintf("%x", raw[:4]))
	require.NotContains(t, shown, strings.Trim(fmt.Sprint(raw[:4]), "[]"), "decimal bytes")
	require.Contains(t, shown, "key "+keys[0].ID())
}

func TestSealedValuesOpenOnlyWhereTheyBelong(t *testing.T) {
	t.Parallel()
	s := sealer(t, seal.GenerateKey())
	ctx := []byte("contact:cus_1")
	plain := []byte("kunde@example.de")
	sealed := s.Seal(plain, ctx)

	got, err := s.Open(sealed, ctx)
	require.NoError(t, err)
	require.Equal(t, plain, got)
	require.Len(t, sealed, len(plain)+seal.Overhead)
	require.False(t, bytes.Contains(sealed, plain))
	require.NotEqual(t, sealed, s.Seal(plain, ctx), "equal plaintexts must not be recognisable")

	_, err = s.Open(sealed, []byte("contact:cus_2"))
	require.ErrorIs(t, err, seal.ErrTampered)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		_, err = s.Open(bad, ctx)
		require.Error(t, err, "byte %d changed", i)
	}
	for n := range sealed {
		_, err = s.Open(sealed[:n], ctx)
		require.ErrorIs(t, err, seal.ErrTampered, "cut to %d bytes", n)
	}

	empty := s.Seal(nil, nil)
	got, err = s.Open(empty, nil)
	require.NoError(t, err)
	require.Empty(t, got)
}

func TestKeyIDIsBoundToItsContext(t *testing.T) {
	t.Parallel()
	s := sealer(t, seal.GenerateKey())
	sealed := s.Seal([]byte("x"), []byte("ab"))
	_, err := s.Open(sealed, []byte("a"))
	require.ErrorIs(t, err, seal.ErrTampered)
	_, err = s.Open(sealed, []byte("bab"))
	require.ErrorIs(t, err, seal.ErrTampered)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.GenerateKey(), seal.GenerateKey()
	before, during, after := sealer(t, k1), sealer(t, k2, k1), sealer(t, k2)
	ctx := []byte("c")
	old := before.Seal([]byte("old"), ctx)

	got, err := during.Open(old, ctx)
	require.NoError(t, err)
	require.Equal(t, "old", string(got))

	fresh := during.Seal([]byte("new"), ctx)
	got, err = after.Open(fresh, ctx)
	require.NoError(t, err, "the first key of the list must be the one that seals")
	require.Equal(t, "new", string(got))

	_, err = after.Open(old, ctx)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = before.Open(fresh, ctx)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	require.NotContains(t, err.Error(), k2)
}

func TestHashesSurviveRotation(t *testing.T) {
	t.Parallel()
	k1, k2 := seal.GenerateKey(), seal.GenerateKey()
	root := seal.NewRootKey()
	stored := sealer(t, k1).Wrap(root)
	want := seal.NewHasher(root).HashMailbox("a@example.com")

	got, rewrap, err := sealer(t, k1).Unwrap(stored)
	require.NoError(t, err)
	require.False(t, rewrap)
	require.Equal(t, want, seal.NewHasher(got).HashMailbox("a@example.com"))

	during := sealer(t, k2, k1)
	got, rewrap, err = during.Unwrap(stored)
	require.NoError(t, err)
	require.True(t, rewrap)
	stored = during.Wrap(got)

	got, rewrap, err = sealer(t, k2).Unwrap(stored)
	require.NoError(t, err)
	require.False(t, rewrap)
	require.Equal(t, want, seal.NewHasher(got).HashMailbox("a@example.com"))

	_, _, err = sealer(t, k1).Unwrap(stored)
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	stored[len(stored)-1] ^= 1
	_, _, err = sealer(t, k2).Unwrap(stored)
	require.ErrorIs(t, err, seal.ErrTampered)
}

func TestWrappedRootKeyIsNoSealedValue(t *testing.T) {
	t.Parallel()
	s := sealer(t, seal.GenerateKey())
	_, err := s.Open(s.Wrap(seal.NewRootKey()), []byte("root key"))
	require.ErrorIs(t, err, seal.ErrTampered)
	_, _, err = s.Unwrap(s.Seal(make([]byte, 32), []byte("root key")))
	require.ErrorIs(t, err, seal.ErrTampered)
}

func TestHashesAreUnambiguousAndSeparate(t *testing.T) {
	t.Parallel()
	h := seal.NewHasher(seal.NewRootKey())
	seen := map[string]string{}
	for name, sum := range map[string][]byte{
		"ab c":           h.Hash("p", "ab", "c"),
		"a bc":           h.Hash("p", "a", "bc"),
		"abc":            h.Hash("p", "abc"),
		"abc and empty":  h.Hash("p", "abc", ""),
		"empty and abc":  h.Hash("p", "", "abc"),
		"nothing":        h.Hash("p"),
		"one empty":      h.Hash("p", ""),
		"length in text": h.Hash("p", "\x02ab\x01c"),
		"other purpose":  h.Hash("q", "abc"),
		"client secret":  h.HashClientSecret("abc"),
		"mailbox":        h.HashMailbox("abc"),
		"other root":     seal.NewHasher(seal.NewRootKey()).Hash("p", "abc"),
	} {
		require.Len(t, sum, 32)
		require.Empty(t, seen[string(sum)], "%s hashes like another", name)
		seen[string(sum)] = name
	}
	require.Equal(t, h.Hash("p", "ab", "c"), h.Hash("p", "ab", "c"))
}

func TestIDs(t *testing.T) {
	t.Parallel()
	root := seal.NewRootKey()
	h := seal.NewHasher(root)
	id := h.ID("fl_", "failure", "stripe", "", "true", "pi_1", "ch_1")
	require.Regexp(t, `^fl_[0-9a-hjkmnp-tv-z]{26}$`, id)
	require.Equal(t, id, seal.NewHasher(root).ID("fl_", "failure", "stripe", "", "true", "pi_1", "ch_1"))
	require.NotEqual(t, id, h.ID("fl_", "failure", "stripe", "", "true", "pi_1", "ch_2"))
	require.NotEqual(t, id[3:], h.ID("nt_", "notification", "stripe", "", "true", "pi_1", "ch_1")[3:])
	require.Len(t, h.ID(strings.Repeat("long_", 20), "failure", "x"), 126)
}

func TestHasherIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	h := seal.NewHasher(seal.NewRootKey())
	want := make([]string, 50)
	for i := range want {
		want[i] = h.ID("x_", fmt.Sprint("purpose ", i%3), fmt.Sprint(i))
	}
	var wg sync.WaitGroup
	got := make([][]string, 8)
	for g := range got {
		wg.Go(func() {
			for i := range want {
				got[g] = append(got[g], h.ID("x_", fmt.Sprint("purpose ", i%3), fmt.Sprint(i)))
			}
		})
	}
	wg.Wait()
	for g := range got {
		require.Equal(t, want, got[g])
	}
}

func BenchmarkID(b *testing.B) {
	h := seal.NewHasher(seal.NewRootKey())
	b.ReportAllocs()
	for b.Loop() {
		_ = h.ID("fl_", "failure", "stripe", "acct_1", "true", "pi_3PgafmB7WZ01zgkW6dKueIc5", "ch_3PgafmB7WZ01zgkW6dKueIc5")
	}
}

func BenchmarkSeal(b *testing.B) {
	s := sealer(b, seal.GenerateKey())
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Seal([]byte("someone@example.com"), []byte("contact:cus_1"))
	}
}
