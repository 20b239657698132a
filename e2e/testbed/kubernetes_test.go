package testbed_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/hostmesh/hostmesh/e2e/testbed"
)

func clientOf(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func createConfigMap(t *testing.T, client *kubernetes.Clientset, name string) string {
	t.Helper()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	created, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created.ResourceVersion
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	k := testbed.StartKubernetes(t, testbed.KubernetesOptions{})
	admin := clientOf(t, k.Config())
	version := createConfigMap(t, admin, "kept")

	t.Run("a reader has only the rights it is given", func(t *testing.T) {
		config, err := clientcmd.BuildConfigFromFlags("", k.Kubeconfig(t, "", k.Token(t, "reader-1")))
		if err != nil {
			t.Fatal(err)
		}
		reader := clientOf(t, config)
		_, err = reader.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsForbidden(err) {
			t.Fatalf("without a role: got %v, want forbidden", err)
		}
		role := &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "reader-1"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}},
		}
		if _, err := admin.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "reader-1"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader-1"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "reader-1"}},
		}
		if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(arrival); ; time.Sleep(50 * time.Millisecond) {
			_, err := reader.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("with a role: %v", err)
			}
		}
	})
	t.Run("an unknown token is refused", func(t *testing.T) {
		config := k.Config()
		config.BearerToken = "unknown"
		_, err := clientOf(t, config).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsUnauthorized(err) {
			t.Fatalf("got %v, want unauthorized", err)
		}
	})
	t.Run("data survives a kill", func(t *testing.T) {
		k.Restart()
		list, err := admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		events := watchFrom(t, admin, list.ResourceVersion)
		createConfigMap(t, admin, "seen")
		if event := <-events; event.Type != watch.Added {
			t.Fatalf("got %v, want what was added", event)
		}
		if _, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("lost history is gone", func(t *testing.T) {
		k.LoseHistory(t)
		event := <-watchFrom(t, admin, version)
		if err := apierrors.FromObject(event.Object); event.Type != watch.Error || !apierrors.IsResourceExpired(err) {
			t.Fatalf("got %v, want 410 Gone", event)
		}
		if _, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}

func watchFrom(t *testing.T, client *kubernetes.Clientset, version string) <-chan watch.Event {
	t.Helper()
	timeout := int64(60)
	watcher, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{
		ResourceVersion: version, TimeoutSeconds: &timeout,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watcher.Stop)
	return watcher.ResultChan()
}
