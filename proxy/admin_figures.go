package proxy

import (
	"bufio"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostmesh/hostmesh/proxy/upstream"
)

func (a *admin) stats(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	form := map[string]func(http.ResponseWriter, []sample){"": statsText, "text": statsText, "json": statsJSON, "prometheus": statsPrometheus}[q.Get("format")]
	if form == nil {
		http.Error(w, "usage: /stats?format=(json|prometheus|text)", http.StatusBadRequest)
		return
	}
	a.statsAs(form, w, r)
}

// prometheus is /stats/prometheus.
func (a *admin) prometheus(w http.ResponseWriter, r *http.Request) { a.statsAs(statsPrometheus, w, r) }

// statsAs writes the figures that are asked for.
func (a *admin) statsAs(form func(http.ResponseWriter, []sample), w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	filter, err := regexp.Compile(q.Get("filter"))
	if err != nil {
		http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
		return
	}
	form(w, slices.DeleteFunc(a.p.samples(r.Context()), func(s sample) bool {
		return !filter.MatchString(s.path()) || q.Has("usedonly") && s.value == 0 && (s.histogram == nil || s.histogram.Count == 0)
	}))
}

// path is the figure's name in full.
func (s *sample) path() string {
	if s.owner == "" {
		return s.scope + "." + s.name
	}
	return s.scope + "." + s.owner + "." + s.name
}

// statsText writes a line for each figure.
func statsText(w http.ResponseWriter, all []sample) {
	w.Header().Set("Content-Type", "text/plain; charset=UTF-8")
	out := bufio.NewWriter(w)
	defer out.Flush()
	for i := range all {
		if s := &all[i]; s.histogram != nil {
			fmt.Fprintf(out, "%s: %s\n", s.path(), quantiles(s.histogram))
		} else {
			fmt.Fprintf(out, "%s: %d\n", s.path(), s.value)
		}
	}
}

// statsJSON writes the figures as Envoy does, with the quantiles that are estimated here. There are no intervals, and what is above the
// last bound is null.
func statsJSON(w http.ResponseWriter, all []sample) {
	type (
		figure struct {
			Name  string `json:"name"`
			Value uint64 `json:"value"`
		}
		quantile struct {
			Cumulative *float64 `json:"cumulative"`
			Interval   *float64 `json:"interval"`
		}
		computed struct {
			Name   string     `json:"name"`
			Values []quantile `json:"values"`
		}
	)
	list, histograms := []any{}, []computed{}
	for i := range all {
		s := &all[i]
		if s.histogram == nil {
			list = append(list, figure{s.path(), s.value})
			continue
		}
		c := computed{Name: s.path()}
		for _, q := range told {
			v := quantile{}
			if bound, ok := atQuantile(s.histogram, q); ok {
				v.Cumulative = &bound
			}
			c.Values = append(c.Values, v)
		}
		histograms = append(histograms, c)
	}
	percents := make([]float64, len(told))
	for i, q := range told {
		percents[i] = q * 100
	}
	if len(histograms) > 0 {
		list = append(list, map[string]any{"histograms": map[string]any{"supported_quantiles": percents, "computed_quantiles": histograms}})
	}
	writeJSON(w, map[string]any{"stats": list})
}

// told are the quantiles of histograms that are told.
var told = [...]float64{0.5, 0.9, 0.99, 0.999}

// atQuantile is the bound of the bucket that a quantile lies in; ok is false when there is none.
func atQuantile(h *upstream.Histogram, q float64) (bound float64, ok bool) {
	want, seen := uint64(q*float64(h.Count)), uint64(0)
	for i, n := range h.Buckets {
		if seen += n; h.Count > 0 && (seen > want || seen == h.Count) {
			return boundOf(i)
		}
	}
	return 0, false
}

// boundOf is the upper bound of a bucket; the last has none.
func boundOf(bucket int) (bound float64, ok bool) {
	if bucket < len(upstream.Bounds) {
		return upstream.Bounds[bucket], true
	}
	return 0, false
}

// quantiles estimates some from the buckets, as upper bounds.
func quantiles(h *upstream.Histogram) string {
	if h.Count == 0 {
		return "No recorded values"
	}
	var b strings.Builder
	for _, q := range told {
		bound := "+Inf"
		if v, ok := atQuantile(h, q); ok {
			bound = strconv.FormatFloat(v, 'g', -1, 64)
		}
		fmt.Fprintf(&b, "P%g(%s) ", q*100, bound)
	}
	return strings.TrimSpace(b.String())
}

// statsPrometheus writes the figures in Prometheus' text form, with Envoy's names and labels.
func statsPrometheus(w http.ResponseWriter, all []sample) {
	families := map[string]*strings.Builder{}
	for i := range all {
		writeSample(families, &all[i])
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	out := bufio.NewWriter(w)
	defer out.Flush()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		_, _ = out.WriteString(families[name].String())
	}
}

// statusLabels takes what a name tells of a status out of it: of downstream_rq_2xx the class, of upstream_rq_200 the status.
func statusLabels(name string) (family, label string) {
	n := len(name) - 3
	if n < 4 || !strings.HasSuffix(name[:n], "_rq_") || name[n] < '1' || name[n] > '9' {
		return name, ""
	}
	switch rest := name[n+1:]; {
	case rest == "xx":
		return name[:n] + "xx", fmt.Sprintf(`envoy_response_code_class="%c"`, name[n])
	case rest[0] >= '0' && rest[0] <= '9' && rest[1] >= '0' && rest[1] <= '9':
		return name[:n-1], `envoy_response_code="` + name[n:] + `"`
	}
	return name, ""
}

// writeSample adds a figure to its family.
func writeSample(families map[string]*strings.Builder, s *sample) {
	name, labels := statusLabels(s.name)
	if s.label != "" {
		if labels != "" {
			labels += ","
		}
		labels += s.label + `="` + escapeLabel(s.owner) + `"`
	}
	name = "envoy_" + s.scope + "_" + strings.ReplaceAll(name, ".", "_")
	kind := "counter"
	switch {
	case s.histogram != nil:
		kind = "histogram"
	case s.gauge:
		kind = "gauge"
	}
	f := families[name]
	if f == nil {
		f = &strings.Builder{}
		families[name] = f
		fmt.Fprintf(f, "# TYPE %s %s\n", name, kind)
	}
	if s.histogram == nil {
		fmt.Fprintf(f, "%s{%s} %d\n", name, labels, s.value)
		return
	}
	seen := uint64(0)
	for i, n := range s.histogram.Buckets {
		seen += n
		bound := "+Inf"
		if i < len(upstream.Bounds) {
			bound = strconv.FormatFloat(upstream.Bounds[i], 'g', -1, 64)
		}
		fmt.Fprintf(f, "%s_bucket{%s,le=\"%s\"} %d\n", name, labels, bound, seen)
	}
	fmt.Fprintf(f, "%s_sum{%s} %g\n", name, labels, float64(s.histogram.Sum)/float64(time.Millisecond))
	fmt.Fprintf(f, "%s_count{%s} %d\n", name, labels, s.histogram.Count)
}

// escapeLabel escapes a label's value (Prometheus' text format).
func escapeLabel(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s)
}
