package accesslog

import (
	"fmt"
	"strconv"
)

// How a status of gRPC is written.
const (
	grpcCamel = iota
	grpcSnake
	grpcNumber
)

var grpcForms = [...]string{grpcCamel: "CAMEL_STRING", grpcSnake: "SNAKE_STRING", grpcNumber: "NUMBER"}

// grpcNames are the names of the statuses in both spellings that Envoy has.
var grpcNames = [...][2]string{
	{"OK", "OK"},
	{"Canceled", "CANCELLED"},
	{"Unknown", "UNKNOWN"},
	{"InvalidArgument", "INVALID_ARGUMENT"},
	{"DeadlineExceeded", "DEADLINE_EXCEEDED"},
	{"NotFound", "NOT_FOUND"},
	{"AlreadyExists", "ALREADY_EXISTS"},
	{"PermissionDenied", "PERMISSION_DENIED"},
	{"ResourceExhausted", "RESOURCE_EXHAUSTED"},
	{"FailedPrecondition", "FAILED_PRECONDITION"},
	{"Aborted", "ABORTED"},
	{"OutOfRange", "OUT_OF_RANGE"},
	{"Unimplemented", "UNIMPLEMENTED"},
	{"Internal", "INTERNAL"},
	{"Unavailable", "UNAVAILABLE"},
	{"DataLoss", "DATA_LOSS"},
	{"Unauthenticated", "UNAUTHENTICATED"},
}

// grpcOperator compiles GRPC_STATUS(form).
func grpcOperator(call call) (op, error) {
	form := grpcCamel
	if call.hasParams {
		for form < len(grpcForms) && grpcForms[form] != call.params {
			form++
		}
		if form == len(grpcForms) {
			return op{}, fmt.Errorf("got %q for %%GRPC_STATUS%%, want nothing, CAMEL_STRING, SNAKE_STRING or NUMBER", clip(call.params))
		}
	}
	return op{arg: form, write: func(o *op, dst []byte, r *Record) ([]byte, valueKind) { return appendGRPC(dst, r, o.arg) }}, nil
}

// appendGRPC writes how a call of gRPC ended: a status that has no name is a number.
func appendGRPC(dst []byte, r *Record, form int) ([]byte, valueKind) {
	code, ok := r.grpcStatus()
	switch {
	case !r.GRPC || !ok:
		return dst, missing
	case form == grpcNumber:
		return strconv.AppendInt(dst, int64(code), 10), number
	case code < 0 || code >= len(grpcNames):
		return strconv.AppendInt(dst, int64(code), 10), text
	}
	return append(dst, grpcNames[code][form]...), text
}
