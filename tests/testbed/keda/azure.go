// Package azure stands where KEDA has its access to Azure: without a workload identity nothing of it is used.
package azure

import (
	"errors"
	"net/http"

	"github.com/go-logr/logr"

	kedav1alpha1 "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
)

// The fields into which KEDA resolves an azureServicePrincipal.
const (
	ServicePrincipalAuthKey                      = "azureServicePrincipal"
	ServicePrincipalTenantIDKey                  = "azureServicePrincipalTenantId"
	ServicePrincipalClientIDKey                  = "azureServicePrincipalClientId"
	ServicePrincipalCloudKey                     = "azureServicePrincipalCloud"
	ServicePrincipalActiveDirectoryEndpointKey   = "azureServicePrincipalActiveDirectoryEndpoint"
	ServicePrincipalClientSecretKey              = "azureServicePrincipalClientSecret"
	ServicePrincipalClientCertificateKey         = "azureServicePrincipalClientCertificate"
	ServicePrincipalClientCertificatePasswordKey = "azureServicePrincipalClientCertificatePassword"
)

// TryAndGetAzureManagedPrometheusHTTPRoundTripper is for Azure's own Prometheus, which this build refuses.
func TryAndGetAzureManagedPrometheusHTTPRoundTripper(
	_ logr.Logger, identity kedav1alpha1.AuthPodIdentity, _ map[string]string,
) (http.RoundTripper, error) {
	if identity.Provider == kedav1alpha1.PodIdentityProviderAzureWorkload {
		return nil, errors.New("this build of KEDA has no Azure")
	}
	return nil, nil
}
