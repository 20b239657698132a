package etcd_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/hostmesh/hostmesh/e2e/testbed"
	"github.com/hostmesh/hostmesh/registry"
	"github.com/hostmesh/hostmesh/registry/etcd"
)

const password = "a password that no error may show"

// authServer has a user hostmesh who may read the prefix and nothing else.
func authServer(t *testing.T, opts testbed.EtcdOptions) (*testbed.Etcd, etcd.Config) {
	t.Helper()
	opts.Auth = true
	server := testbed.StartEtcd(t, opts)[0]
	addUser(t, server.Client(), "hostmesh", password, servicesPrefix)
	return server, etcd.Config{
		Endpoints: []string{server.Address}, Username: "hostmesh", PasswordFile: secretFile(t, password),
	}
}

func write(t *testing.T, server *testbed.Etcd, key, value string) {
	t.Helper()
	client := server.Client()
	defer client.Close()
	if _, err := client.Put(t.Context(), key, value); err != nil {
		t.Fatal(err)
	}
}

func TestPermissionRevokedWhileWatching(t *testing.T) {
	t.Parallel()
	server, cfg := authServer(t, testbed.EtcdOptions{})
	write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.1","port":80}`)
	w := watch(t, cfg)
	w.sees(t, "the endpoint", exactly("default/web 1"))
	w.promise(holds("default/web 1"))
	client := server.Client()
	for _, left := range []string{"", servicesPrefix + "web/", "/elsewhere/"} {
		w.forget()
		if left != "" {
			grant(t, client, "hostmesh", left)
		}
		revoke(t, client, "hostmesh", servicesPrefix)
		permissionError(t, w.fails(t, "only "+left+" is left", "user hostmesh", "etcdctl role grant-permission", servicesPrefix))
		grant(t, client, "hostmesh", servicesPrefix)
		id := "after" + strings.ReplaceAll(left, "/", "-")
		write(t, server, servicesPrefix+"web/"+id, `{"address":"10.0.0.2","port":80}`)
		w.sees(t, "a change after the permission is back", holds("default/web "+id))
	}
	// The role is taken from the user, then the user is no more.
	w.forget()
	if _, err := client.UserRevokeRole(t.Context(), "hostmesh", "hostmesh"); err != nil {
		t.Fatal(err)
	}
	permissionError(t, w.fails(t, "no role", "permission"))
	w.forget()
	if _, err := client.UserDelete(t.Context(), "hostmesh"); err != nil {
		t.Fatal(err)
	}
	permissionError(t, w.fails(t, "no user", "check username hostmesh"))
}

func TestCredentialsThatAreWrong(t *testing.T) {
	t.Parallel()
	server, good := authServer(t, testbed.EtcdOptions{})
	for name, test := range map[string]struct {
		change func(*etcd.Config)
		words  []string
	}{
		"none":         {func(c *etcd.Config) { c.Username, c.PasswordFile = "", "" }, []string{"set username and passwordFile"}},
		"password":     {func(c *etcd.Config) { c.PasswordFile = secretFile(t, "another secret") }, []string{"check username hostmesh"}},
		"user":         {func(c *etcd.Config) { c.Username = "nobody" }, []string{"check username nobody"}},
		"other prefix": {func(c *etcd.Config) { c.Prefix = "/other/" }, []string{"user hostmesh", "read --prefix /other/"}},
		"wider prefix": {func(c *etcd.Config) { c.Prefix = "/hostmesh/" }, []string{"user hostmesh", "read --prefix /hostmesh/"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			test.change(&cfg)
			w := watch(t, cfg)
			err := w.fails(t, name, test.words...)
			permissionError(t, err)
			if text := err.Error(); strings.Contains(text, password) || strings.Contains(text, "another secret") {
				t.Errorf("the error shows a password: %v", err)
			}
			if !strings.Contains(err.Error(), server.Address[len("http://"):]) {
				t.Errorf("the error does not name the endpoint: %v", err)
			}
			if w.published() > 0 {
				t.Error("a view was published")
			}
		})
	}
}

// TestTokenExpires has signed tokens end again and again under a Watch: nothing may fail, nothing may be lost.
func TestTokenExpires(t *testing.T) {
	t.Parallel()
	server, cfg := authServer(t, testbed.EtcdOptions{AuthTTL: time.Second})
	cfg.KeepAliveTime = 200 * time.Millisecond
	client := server.Client()
	one, err := client.Authenticate(t.Context(), "hostmesh", password)
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, cfg)
	for i := range 4 {
		id := string(rune('a' + i))
		write(t, server, servicesPrefix+"web/"+id, `{"address":"10.0.0.1","port":80}`)
		w.sees(t, "a change with token "+id, holds("default/web "+id))
		w.promise(holds("default/web " + id))
		time.Sleep(1500 * time.Millisecond) // the token ends
	}
	if errs := w.errors(); len(errs) > 0 {
		t.Errorf("Watch failed: %v", errs)
	}
	old, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Address}, Token: one.Token, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if _, err := old.Get(t.Context(), servicesPrefix+"web/a"); !errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		t.Errorf("a token of the beginning: got %v, want that it has ended", err)
	}
}

func TestTokenEndsOverRestart(t *testing.T) {
	t.Parallel()
	server, cfg := authServer(t, testbed.EtcdOptions{})
	write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.1","port":80}`)
	w := watch(t, cfg)
	w.sees(t, "the endpoint", exactly("default/web 1"))
	w.promise(holds("default/web 1"))
	server.Restart() // it knows none of its tokens any more
	write(t, server, servicesPrefix+"web/2", `{"address":"10.0.0.2","port":80}`)
	w.sees(t, "a change after the restart", exactly("default/web 1", "default/web 2"))
}

// TestPasswordRotates changes the password in etcd, then in the file.
func TestPasswordRotates(t *testing.T) {
	t.Parallel()
	for name, ttl := range map[string]time.Duration{"simple": 0, "jwt": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, cfg := authServer(t, testbed.EtcdOptions{AuthTTL: ttl})
			write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.1","port":80}`)
			w := watch(t, cfg)
			w.sees(t, "the endpoint", exactly("default/web 1"))
			w.promise(holds("default/web 1"))
			if _, err := server.Client().UserChangePassword(t.Context(), "hostmesh", "the next"); err != nil {
				t.Fatal(err)
			}
			permissionError(t, w.fails(t, "the old password", "check username hostmesh"))
			if err := os.WriteFile(cfg.PasswordFile, []byte("the next\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			write(t, server, servicesPrefix+"web/2", `{"address":"10.0.0.2","port":80}`)
			w.sees(t, "a change with the new password", exactly("default/web 1", "default/web 2"))
		})
	}
}

// TestAuthIsEnabledLater begins without users, and turns authentication on under a Watch that has none.
func TestAuthIsEnabledLater(t *testing.T) {
	t.Parallel()
	server := testbed.StartEtcd(t, testbed.EtcdOptions{})[0]
	write(t, server, servicesPrefix+"web/1", `{"address":"10.0.0.1","port":80}`)
	w := watch(t, etcd.Config{Endpoints: []string{server.Address}})
	w.sees(t, "the endpoint", exactly("default/web 1"))
	w.promise(func(v registry.View) bool { return holds("default/web 1")(v) })
	client := server.Client()
	if _, err := client.UserAdd(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	permissionError(t, w.fails(t, "no user", "set username and passwordFile"))
}
