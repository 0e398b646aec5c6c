// Package gcp stands where KEDA has its access to Google's cloud: it finds no credentials.
package gcp

import (
	"errors"
	"net/http"

	"github.com/kedacore/keda/v2/pkg/scalers/scalersconfig"
)

// GcpScopeMonitoringRead is what the scaler of Prometheus asks for.
const GcpScopeMonitoringRead = "https://www.googleapis.com/auth/monitoring.read"

// ErrGoogleApplicationCrendentialsNotFound is what KEDA answers, too, where a trigger names no credentials.
var ErrGoogleApplicationCrendentialsNotFound = errors.New("google application credentials not found")

// GetGCPOAuth2HTTPTransport is for Google's own Prometheus.
func GetGCPOAuth2HTTPTransport(
	_ *scalersconfig.ScalerConfig, _ http.RoundTripper, _ ...string,
) (http.RoundTripper, error) {
	return nil, ErrGoogleApplicationCrendentialsNotFound
}
