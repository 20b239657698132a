package zookeeper

import (
	"slices"
	"strings"
)

const (
	surveyNodes    = 100 // that are looked at
	surveyChildren = 8   // of each node
)

// survey looks for a node of another layout below a root of which nothing could be read. It goes down where the
// layout that is set does not, but not far: a wrong layout shows at once. It returns "" when it finds none, and when
// it is not let.
func (s *session) survey(root, layout string, excluded func(at []string) bool) (other, path string) {
	left := surveyNodes
	var walk func(at []string) bool
	walk = func(at []string) bool {
		if left--; left < 0 || len(at) > maxDepth || len(at) > 0 && excluded(at) {
			return false
		}
		path = strings.Join(append([]string{root}, at...), "/")
		children, stat, err := s.Children(path)
		if err != nil {
			return false
		}
		if len(at) > 0 {
			var data []byte
			if stat.DataLength > 0 && stat.DataLength <= maxData {
				if data, _, err = s.Get(path); err != nil {
					return false
				}
			}
			if other = looksLike(at, data); other != "" && other != layout {
				return true
			}
		}
		slices.Sort(children)
		for _, name := range children[:min(len(children), surveyChildren)] {
			if walk(append(at[:len(at):len(at)], name)) {
				return true
			}
		}
		return false
	}
	if walk(nil) {
		return other, path
	}
	return "", ""
}
