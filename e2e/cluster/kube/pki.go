package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"log"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// authority signs everything of one cluster. One serves for servers, clients and service accounts' roots: nothing in the
// tests depends on who signed what.
type authority struct {
	folder      string
	server      string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// writePKI fills a folder with the keys, certificates and kubeconfigs of a cluster. With client certificates for all there
// are no bootstrap tokens to hand out and no signing requests to approve.
func writePKI() {
	flags := flag.NewFlagSet("pki", flag.ExitOnError)
	folder := flags.String("dir", "", "where the files go")
	address := flags.String("address", "", "address of the API server")
	service := flags.String("service-address", "", "first address of the service range")
	nodes := flags.String("nodes", "", "NAME=ADDRESS,... of the nodes")
	if err := flags.Parse(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
	ca := newAuthority(*folder, "https://"+net.JoinHostPort(*address, "6443"))
	ca.serviceAccountKey()
	ca.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"},
		[]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		*address, *service, "127.0.0.1")
	ca.issue("kubelet-client", pkix.Name{CommonName: "apiserver-kubelet-client", Organization: []string{"system:masters"}}, nil)
	ca.kubeconfig("admin", pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}})
	// CoreDNS has no role of its own in the bootstrap policy, and DNS is not what the tests look at.
	ca.kubeconfig("coredns", pkix.Name{CommonName: "coredns", Organization: []string{"system:masters"}})
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		ca.kubeconfig(name, pkix.Name{CommonName: "system:" + name})
	}
	for _, node := range strings.Split(*nodes, ",") {
		name, address, _ := strings.Cut(node, "=")
		subject := pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}}
		ca.kubeconfig(name, subject)
		// The kubelet's serving certificate; signed by our own authority, so that exec and logs are verified.
		ca.issue(name, subject, []string{name}, address)
	}
}

func newAuthority(folder, server string) *authority {
	must(os.MkdirAll(folder, 0o700))
	key := newKey()
	template := template(pkix.Name{CommonName: "penstock-test-cluster"})
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	raw := value(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))
	ca := &authority{folder: folder, server: server, certificate: value(x509.ParseCertificate(raw)), key: key}
	ca.write("ca.crt", "CERTIFICATE", raw)
	ca.write("ca.key", "EC PRIVATE KEY", value(x509.MarshalECPrivateKey(key)))
	return ca
}

func (ca *authority) serviceAccountKey() {
	key := newKey()
	ca.write("service-account.key", "EC PRIVATE KEY", value(x509.MarshalECPrivateKey(key)))
	ca.write("service-account.pub", "PUBLIC KEY", value(x509.MarshalPKIXPublicKey(&key.PublicKey)))
}

// issue writes NAME.crt and NAME.key and returns both as PEM.
func (ca *authority) issue(name string, subject pkix.Name, hosts []string, addresses ...string) (certificate, key []byte) {
	template := template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = hosts
	for _, address := range addresses {
		ip := net.ParseIP(address)
		if ip == nil {
			log.Fatalf("pki: %s: %q is no address", name, address)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	private := newKey()
	raw := value(x509.CreateCertificate(rand.Reader, template, ca.certificate, &private.PublicKey, ca.key))
	return ca.write(name+".crt", "CERTIFICATE", raw),
		ca.write(name+".key", "EC PRIVATE KEY", value(x509.MarshalECPrivateKey(private)))
}

// kubeconfig issues a client's certificate and writes NAME.kubeconfig, which holds all that the client needs.
func (ca *authority) kubeconfig(name string, subject pkix.Name) {
	certificate, key := ca.issue(name, subject, nil)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.certificate.Raw})
	type named map[string]any
	// JSON is YAML; byte slices become base64, which is what the format wants.
	text := value(json.MarshalIndent(named{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": "penstock",
		"clusters":        []named{{"name": "penstock", "cluster": named{"server": ca.server, "certificate-authority-data": authority}}},
		"users":           []named{{"name": name, "user": named{"client-certificate-data": certificate, "client-key-data": key}}},
		"contexts":        []named{{"name": "penstock", "context": named{"cluster": "penstock", "user": name}}},
	}, "", "  "))
	must(os.WriteFile(filepath.Join(ca.folder, name+".kubeconfig"), text, 0o600))
}

func (ca *authority) write(name, kind string, raw []byte) []byte {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw})
	must(os.WriteFile(filepath.Join(ca.folder, name), text, 0o600))
	return text
}

func template(subject pkix.Name) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: value(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))),
		Subject:      subject,
		// A clock that was just set must not make them invalid.
		NotBefore: now.Add(-24 * time.Hour),
		NotAfter:  now.AddDate(10, 0, 0),
	}
}

func newKey() *ecdsa.PrivateKey { return value(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }

func value[T any](result T, err error) T {
	must(err)
	return result
}

func must(err error) {
	if err != nil {
		log.Fatal(fmt.Errorf("pki: %w", err))
	}
}
