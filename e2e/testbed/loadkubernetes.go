package testbed

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"golang.org/x/sync/errgroup"
)

// LoadKubernetes creates services svc-0000, svc-0001, … in namespace, which it creates too, each with one EndpointSlice
// of that many endpoints (at most 1000) as LoadedEndpointSlice says. None of the services may be there yet.
func LoadKubernetes(ctx context.Context, config *rest.Config, namespace string, services, endpoints int) error {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf // half the server's work of JSON
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("load kubernetes: %w", err)
	}
	space := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	_, err = client.CoreV1().Namespaces().Create(ctx, space, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("load kubernetes: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for s := range services {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, loadTimeout)
			defer cancel()
			_, err := client.CoreV1().Services(namespace).Create(ctx, loadedService(namespace, s), metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("load kubernetes: %w", err)
			}
			slice := LoadedEndpointSlice(namespace, s, endpoints)
			_, err = client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice, metav1.CreateOptions{})
			if err != nil {
				return fmt.Errorf("load kubernetes: %w", err)
			}
			return nil
		})
	}
	return group.Wait()
}

func loadedService(namespace string, service int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: LoadedServiceName(service), Namespace: namespace, Labels: map[string]string{"version": "v1"},
		},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80, AppProtocol: new("http")}}},
	}
}

// LoadedEndpointSlice returns the slice of that service when each service has so many endpoints: all ready, on port
// 8080, with addresses from 10.0.0.0/8. Updating what it holds, or who is ready, changes the service's endpoints.
func LoadedEndpointSlice(namespace string, service, endpoints int) *discoveryv1.EndpointSlice {
	name := LoadedServiceName(service)
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-1", Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{
			Name: new("http"), Port: new(int32(8080)), Protocol: new(corev1.ProtocolTCP), AppProtocol: new("http"),
		}},
	}
	for e := range endpoints {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{loadedAddress(service*endpoints + e)},
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	return slice
}
