package config

// AccessLog is a place for lines and what they say. Path is a file, "/dev/stdout" or "/dev/stderr".
type AccessLog struct {
	Path   string
	Format *LogFormat // nil: Envoy's default line
	Filter *LogFilter // nil: everything
}

// LogFormat is Envoy's SubstitutionFormatString: a text, or JSON if that is not nil.
type LogFormat struct {
	Text      string
	JSON      map[string]any // of nil, bool, float64, string, []any and map[string]any
	OmitEmpty bool           // what is missing leaves nothing, instead of "-" or null
}

// LogFilter says which requests and connections a log is about.
type LogFilter struct {
	Kind    LogFilterKind
	Op      LogComparison
	Value   uint64      // to compare with: a status, or milliseconds; of LogGRPC a bit for each status, LogEqual to be one of them
	Flags   []string    // of LogFlags; none: any
	Header  HeaderMatch // of LogHeader
	Share   LogShare    // of LogRuntime
	Filters []LogFilter // of LogAnd and LogOr: at least two
}

// LogFilterKind is a kind of filter.
type LogFilterKind uint8

// The kinds there are.
const (
	LogStatus LogFilterKind = iota
	LogDuration
	LogNotHealthCheck
	LogFlags
	LogHeader
	LogRuntime
	LogAnd
	LogOr
	LogGRPC
)

// LogComparison is how a figure is compared.
type LogComparison uint8

// The comparisons there are.
const (
	LogEqual LogComparison = iota
	LogAtLeast
	LogAtMost
	LogNotEqual
)

// LogShare is Part in Of requests. Unless Independent, the request's x-request-id decides which.
type LogShare struct {
	Part, Of    uint64 // Of is at least 1
	Independent bool
}
