package hostfile

import "testing"

// An endpoint cannot be at the caller's own address, or at everybody's, in whatever way that is written.
func TestCVEClass12_AddressesLeadToOneHost(t *testing.T) {
	for _, address := range []string{"0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "::ffff:224.0.0.1", "ff02::1", "fe80::1%eth0"} {
		if _, err := DecodeStatic("f", []byte("service: web\nport: 80\nendpoints: [{address: '"+address+"', port: 80}]\n")); err == nil {
			t.Errorf("%s passes", address)
		}
	}
	if _, err := DecodeStatic("f", []byte("service: web\nport: 80\nendpoints: [{address: '::ffff:10.0.0.1', port: 80}]\n")); err != nil {
		t.Error(err)
	}
}
