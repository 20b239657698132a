package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/client-go/rest"
	restwatch "k8s.io/client-go/rest/watch"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// client asks one API server for the few kinds that are needed. The whole clientset would link every kind there is.
type client struct {
	server    string
	transport *transport
	core      *rest.RESTClient
	discovery *rest.RESTClient
	codecs    serializer.CodecFactory
	params    runtime.ParameterCodec
}

// connect reads the configuration of the cluster; it opens no connection. The caller closes the client's transport.
func connect(ctx context.Context, cfg Config, log *slog.Logger) (*client, error) {
	base, err := clusterConfig(cfg)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(core.SchemeGroupVersion, &core.Service{}, &core.ServiceList{})
	scheme.AddKnownTypes(discovery.SchemeGroupVersion, &discovery.EndpointSlice{}, &discovery.EndpointSliceList{})
	for _, version := range []schema.GroupVersion{core.SchemeGroupVersion, discovery.SchemeGroupVersion} {
		meta.AddToGroupVersion(scheme, version)
	}
	if err := meta.AddMetaToScheme(scheme); err != nil {
		return nil, err
	}
	c := &client{server: base.Host, codecs: serializer.NewCodecFactory(scheme), params: runtime.NewParameterCodec(scheme)}
	if c.transport, err = newTransport(ctx, base); err != nil {
		return nil, err
	}
	base.BearerToken, base.BearerTokenFile = "", "" // the transport's
	base.UserAgent = "hostmesh"
	rt, err := rest.HTTPWrappersForConfig(base, c.transport)
	if err != nil {
		c.transport.close()
		return nil, err
	}
	base.QPS = -1
	base.ContentType = runtime.ContentTypeProtobuf
	base.AcceptContentTypes = runtime.ContentTypeProtobuf
	base.NegotiatedSerializer = c.codecs.WithoutConversion()
	base.WarningHandlerWithContext = warnings{log}
	httpClient := &http.Client{
		Transport: rt,
		// The token must not follow a redirect to another host, and no API server sends any.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for _, of := range []struct {
		client  **rest.RESTClient
		path    string
		version schema.GroupVersion
	}{{&c.core, "/api", core.SchemeGroupVersion}, {&c.discovery, "/apis", discovery.SchemeGroupVersion}} {
		config := *base
		config.APIPath, config.GroupVersion = of.path, &of.version
		if *of.client, err = rest.RESTClientForConfigAndClient(&config, httpClient); err != nil {
			c.transport.close()
			return nil, err
		}
	}
	return c, nil
}

// clusterConfig reads the kubeconfig, or the pod's service account.
func clusterConfig(cfg Config) (*rest.Config, error) {
	if cfg.Kubeconfig == "" {
		base, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("kubeconfig is not set, and this is no pod; set kubeconfig to the file of a user that may read the cluster")
		}
		return base, err
	}
	file, err := clientcmd.LoadFromFile(cfg.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	if err := clientcmd.ResolveLocalPaths(file); err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	name := cfg.Context
	if name == "" {
		name = file.CurrentContext
	}
	if file.Contexts[name] == nil {
		return nil, fmt.Errorf("read kubeconfig %s: no context %q in it, want context to be one of %s",
			cfg.Kubeconfig, name, strings.Join(slices.Sorted(maps.Keys(file.Contexts)), ", "))
	}
	if err := checkContext(file, file.Contexts[name]); err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: context %q: %w", cfg.Kubeconfig, name, err)
	}
	base, err := clientcmd.NewNonInteractiveClientConfig(*file, name, &clientcmd.ConfigOverrides{}, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", cfg.Kubeconfig, err)
	}
	return base, nil
}

// checkContext refuses what kubectl does and a control plane must not: to run programs, to believe a server that is not
// verified, and to tell secrets to the network or, by an error that repeats an address, to a log.
func checkContext(file *api.Config, context *api.Context) error {
	user := file.AuthInfos[context.AuthInfo]
	if user != nil {
		switch {
		case user.Exec != nil || user.AuthProvider != nil:
			return errors.New("its user logs in by a program (exec or auth-provider), which is not run here; " +
				"use a service account's token or a client certificate")
		case user.Username+user.Password != "":
			return errors.New("its user logs in by username and password, which no API server takes since 1.19; " +
				"use a service account's token or a client certificate")
		}
	}
	cluster := file.Clusters[context.Cluster]
	if cluster == nil {
		return nil // clientcmd tells that
	}
	if cluster.InsecureSkipTLSVerify {
		return errors.New("got insecure-skip-tls-verify, want a server that is verified: set certificate-authority of its cluster, " +
			"and tls-server-name if the certificate is for another name")
	}
	server, err := url.Parse(cluster.Server)
	switch {
	case err != nil || server.Host == "" || server.User != nil:
		return errors.New("the server of its cluster is none; want https://host:port, without a user")
	case server.Scheme != "https" && !isLoopback(server.Hostname()):
		return fmt.Errorf("got server %s, want https://", server.Redacted())
	case server.Scheme != "https" && user != nil && user.Token+user.TokenFile != "":
		// client-go would ask without it, which may show less.
		return fmt.Errorf("got server %s and a token, want https://, or no token", server.Redacted())
	}
	proxy, err := url.Parse(cluster.ProxyURL)
	if cluster.ProxyURL != "" && (err != nil || proxy.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, proxy.Scheme)) {
		return errors.New("the proxy-url of its cluster is none; want http://, https:// or socks5:// with host:port")
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// warnings leads the API server's warnings into the log; client-go would write them to stderr.
type warnings struct{ log *slog.Logger }

func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _, text string) {
	w.log.Warn("the API server warns", "code", code, "text", fmt.Sprintf("%.300s", text))
}

// decoder reads the events of a watch, of up to 16 MiB each.
func (c *client) decoder(body io.ReadCloser) (*restwatch.Decoder, error) {
	info, ok := runtime.SerializerInfoForMediaType(c.codecs.SupportedMediaTypes(), runtime.ContentTypeProtobuf)
	if !ok {
		return nil, errors.New("this build has no protobuf")
	}
	frames := streaming.NewDecoder(info.StreamSerializer.Framer.NewFrameReader(body), info.StreamSerializer.Serializer)
	return restwatch.NewDecoder(frames, c.codecs.UniversalDeserializer()), nil
}
