package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docs/security.md has a row for each class; it names every test of a class, in its row, and none that does not exist.
func TestDocsSecurityTableIsTrue(t *testing.T) {
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(text, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	named, rows := map[string]bool{}, []string{}
	row := regexp.MustCompile(`(?m)^\| (\d+) \|.*\|(.*)\|$`)
	test := regexp.MustCompile("`(Test(?:CVEClass(\\d\\d)_)?\\w+)`")
	for _, m := range row.FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, m[1])
		for _, name := range test.FindAllStringSubmatch(m[2], -1) {
			named[name[1]] = true
			if !declared[name[1]] {
				t.Errorf("class %s names %s, which there is not", m[1], name[1])
			}
			if name[2] != "" && strings.TrimPrefix(name[2], "0") != m[1] {
				t.Errorf("class %s names %s", m[1], name[1])
			}
		}
		if !strings.Contains(m[2], "Test") && !strings.Contains(m[0], "not touched") {
			t.Errorf("class %s has neither a test nor a reason", m[1])
		}
	}
	if len(rows) != 30 || len(slices.Compact(slices.Sorted(slices.Values(rows)))) != 30 {
		t.Errorf("rows %v, want one for each of 30 classes", rows)
	}
	for name := range declared {
		if strings.HasPrefix(name, "TestCVEClass") && !named[name] {
			t.Errorf("%s is missing in docs/security.md", name)
		}
	}
}
