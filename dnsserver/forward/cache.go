package forward

import (
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// cache keeps answers, of those that were not used for longest as few as its memory asks for.
type cache struct {
	most int // bytes

	mu    sync.Mutex
	lru   *simplelru.LRU[key, *entry] // guarded by mu
	bytes int                         // guarded by mu
}

func newCache(most int) *cache {
	c := &cache{most: most}
	// Each entry has its bytes, so there are never so many.
	c.lru, _ = simplelru.NewLRU(most/entryBytes+1, func(k key, e *entry) { c.bytes -= e.bytes(k) })
	return c
}

func (c *cache) get(k key) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.lru.Get(k)
	return e
}

// put keeps an answer, unless it is too large or good for this time only.
func (c *cache) put(k key, e *entry) {
	size := e.bytes(k)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lru.Remove(k)
	if size > c.most || e.ttl <= 0 {
		return
	}
	c.lru.Add(k, e)
	for c.bytes += size; c.bytes > c.most; {
		c.lru.RemoveOldest()
	}
}

func (c *cache) size() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Len(), c.bytes
}
