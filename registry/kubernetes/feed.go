package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

const (
	pageSize    = 500
	pageTimeout = 30 * time.Second
	watchTime   = 5 * time.Minute
	initialTime = time.Minute // for everything there is
	askTimeout  = 5 * time.Second
	shortWatch  = time.Second // a watch that ends before, without a word, is a failure
	maxObjects  = 1_000_000   // of one kind in one namespace, or in all
)

var errTooMany = fmt.Errorf("got more than %d objects; choose fewer with namespaces or labelSelector", maxObjects)

// feed keeps the part of the store that is made of one kind of object, in one namespace or in all.
type feed[T any] struct {
	client    *client
	rest      *rest.RESTClient
	resource  string // services, …
	namespace string // "": all
	selector  string
	partial   bool           // only the metadata is asked for
	watchTime time.Duration  // the server ends a watch after that, or up to twice as long
	list      runtime.Object // an empty list of the kind

	convert func(runtime.Object) (T, error)
	set     func(types.NamespacedName, T) // set and drop are called by store.update
	drop    func(types.NamespacedName)
	store   *store
	known   map[types.NamespacedName]struct{} // what is set
}

// batch is everything there is, while it is read.
type batch[T any] map[types.NamespacedName]T

var (
	errEnded = errors.New("the server ended the watch")
	errGone  = errors.New("the server does not know that version any more")
)

// run follows the objects until something fails. What a server does to every watch sooner or later, ending it or
// forgetting its version, is no failure: the watch goes on where it was, or everything is read again beside what is
// known, and takes its place when it is complete.
func (f *feed[T]) run(ctx context.Context) error {
	if err := f.ask(ctx); err != nil { // a missing permission to list is told now, not when the prober comes to it
		return err
	}
	return f.follow(ctx, "")
}

// follow follows the objects from a version on, or from everything there is now.
func (f *feed[T]) follow(ctx context.Context, version string) error {
	paged := false
	for {
		if version == "" && paged {
			var err error
			if version, err = f.readPages(ctx); err != nil {
				return f.failure("list", err)
			}
		}
		whole := version == ""
		err := f.watch(ctx, &version)
		switch {
		case errors.Is(err, errEnded):
		case errors.Is(err, errGone) && !whole:
			version = ""
		case apierrors.IsInvalid(err) && whole:
			paged = true // a server that does not stream what there is: before 1.32, or switched off
		default:
			return f.failure("watch", err)
		}
	}
}

func (f *feed[T]) failure(verb string, err error) error {
	return fmt.Errorf("%s %s: %w", verb, f.name(), explain(err))
}

func (f *feed[T]) name() string {
	if f.namespace == "" {
		return f.resource
	}
	return f.resource + " in namespace " + f.namespace
}

func (f *feed[T]) request(options *meta.ListOptions) *rest.Request {
	options.LabelSelector = f.selector
	r := f.rest.Get().Resource(f.resource).NamespaceIfScoped(f.namespace, f.namespace != "").
		VersionedParams(options, f.client.params).MaxRetries(0)
	if f.partial {
		kind := "PartialObjectMetadataList"
		if options.Watch {
			kind = "PartialObjectMetadata"
		}
		r.SetHeader("Accept", runtime.ContentTypeProtobuf+";as="+kind+";g=meta.k8s.io;v=v1,"+runtime.ContentTypeProtobuf)
	}
	return r
}

// ask reads one object, which needs the permission to list.
func (f *feed[T]) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no answer within %v", askTimeout))
	defer cancel()
	err := f.request(&meta.ListOptions{Limit: 1}).Do(ctx).Error()
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return f.failure("list", err)
}

// readPages reads everything by pages and returns the version of it.
func (f *feed[T]) readPages(ctx context.Context) (version string, err error) {
	all := make(batch[T])
	options := &meta.ListOptions{Limit: pageSize}
	for {
		page, err := f.readPage(ctx, options)
		if err != nil {
			return "", err
		}
		if err := apimeta.EachListItem(page, func(o runtime.Object) error { return f.collect(all, o, false) }); err != nil {
			return "", err
		}
		about, err := apimeta.ListAccessor(page)
		if err != nil {
			return "", err
		}
		if options.Continue = about.GetContinue(); options.Continue != "" {
			continue
		}
		if about.GetResourceVersion() == "" {
			return "", errors.New("got a list without resourceVersion, want one to watch from")
		}
		f.replace(all)
		return about.GetResourceVersion(), nil
	}
}

func (f *feed[T]) readPage(ctx context.Context, options *meta.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	page := f.list.DeepCopyObject()
	return page, f.request(options).Do(ctx).Into(page)
}

// watch follows the changes since *version, which it moves on. Without a version the server first streams everything
// there is, as of now or later. It returns errEnded, errGone or a failure.
func (f *feed[T]) watch(ctx context.Context, version *string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	seconds := int64(f.watchTime.Seconds() * (1 + rand.Float64()))
	options := &meta.ListOptions{Watch: true, AllowWatchBookmarks: true, TimeoutSeconds: &seconds, ResourceVersion: *version}
	var all batch[T] // nil when everything is known
	if *version == "" {
		yes := true
		options.SendInitialEvents, options.ResourceVersionMatch = &yes, meta.ResourceVersionMatchNotOlderThan
		all = make(batch[T])
	}
	late := time.AfterFunc(initialTime, func() { cancel(fmt.Errorf("not everything came within %v", initialTime)) })
	defer late.Stop()
	began := time.Now()
	body, err := f.request(options).Stream(ctx)
	if err != nil {
		return watchError(ctx, err)
	}
	defer body.Close()
	decoder, err := f.client.decoder(body)
	if err != nil {
		return err
	}
	for events := 0; ; events++ {
		if all == nil {
			late.Stop()
		}
		kind, object, err := decoder.Decode()
		switch {
		case err == io.EOF && all == nil && (events > 0 || time.Since(began) > shortWatch):
			return errEnded
		case err != nil:
			return watchError(ctx, err)
		case kind == watch.Error:
			return watchError(ctx, f.client.transport.about(object))
		}
		if all, err = f.take(all, kind, object, version); err != nil {
			return err
		}
	}
}

// take takes an event. What is in all counts when the bookmark has come that ends the initial events, and so does the
// version; then all is nil.
func (f *feed[T]) take(all batch[T], kind watch.EventType, object runtime.Object, version *string) (batch[T], error) {
	about, err := apimeta.Accessor(object)
	if err != nil {
		return nil, err
	}
	switch {
	case kind == watch.Bookmark && all != nil && about.GetAnnotations()[meta.InitialEventsAnnotationKey] != "true":
		return all, nil
	case kind == watch.Bookmark && all != nil:
		f.replace(all)
	case kind == watch.Bookmark:
	case all != nil:
		return all, f.collect(all, object, kind == watch.Deleted)
	default:
		if err := f.apply(object, kind == watch.Deleted); err != nil {
			return nil, err
		}
	}
	*version = about.GetResourceVersion()
	return nil, nil
}

// watchError tells what a failed watch means to run.
func watchError(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause != nil:
		return cause
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
		return fmt.Errorf("%w: %w", errGone, err)
	case err == io.EOF:
		return errors.New("the server ended the watch at once, or before everything came")
	}
	return err
}

func (f *feed[T]) collect(all batch[T], o runtime.Object, gone bool) error {
	name, err := nameOf(o)
	if err != nil {
		return err
	}
	if gone {
		delete(all, name)
		return nil
	}
	if all[name], err = f.convert(o); err == nil && len(all) > maxObjects {
		err = errTooMany
	}
	return err
}

func (f *feed[T]) apply(o runtime.Object, gone bool) error {
	name, err := nameOf(o)
	if err != nil {
		return err
	}
	if gone {
		delete(f.known, name)
		f.store.update(func() { f.drop(name) })
		return nil
	}
	value, err := f.convert(o)
	if err != nil {
		return err
	}
	if f.known[name] = struct{}{}; len(f.known) > maxObjects {
		return errTooMany
	}
	f.store.update(func() { f.set(name, value) })
	return nil
}

// replace puts everything there is in place of what is known.
func (f *feed[T]) replace(all batch[T]) {
	f.store.update(func() {
		for name := range f.known {
			if _, ok := all[name]; !ok {
				f.drop(name)
			}
		}
		f.known = make(map[types.NamespacedName]struct{}, len(all))
		for name, value := range all {
			f.known[name] = struct{}{}
			f.set(name, value)
		}
		f.store.arrived(f.name(), "")
	})
}

func nameOf(o runtime.Object) (types.NamespacedName, error) {
	about, err := apimeta.Accessor(o)
	if err != nil {
		return types.NamespacedName{}, err
	}
	return types.NamespacedName{Namespace: about.GetNamespace(), Name: about.GetName()}, nil
}

// of makes a convert of a function for one kind of object.
func of[O runtime.Object, T any](convert func(O) T) func(runtime.Object) (T, error) {
	return func(o runtime.Object) (T, error) {
		object, ok := o.(O)
		if !ok {
			var none T
			return none, fmt.Errorf("got an object of type %T, want %T", o, object)
		}
		return convert(object), nil
	}
}
