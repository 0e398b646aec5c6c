package resolver

import (
	"context"
	"errors"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	kedav1alpha1 "github.com/kedacore/keda/v2/apis/keda/v1alpha1"
)

// errLeftOut is what a TriggerAuthentication gets that names a secret store of a cloud.
var errLeftOut = errors.New("this build of KEDA has no secret stores of clouds")

type leftOut struct{}

func (leftOut) Initialize(
	context.Context, client.Client, logr.Logger, string, corev1listers.SecretLister,
) error {
	return errLeftOut
}

func (leftOut) Read(context.Context, string, string) (string, error) { return "", errLeftOut }

// NewAzureKeyVaultHandler refuses when it is used.
func NewAzureKeyVaultHandler(*kedav1alpha1.AzureKeyVault) leftOut { return leftOut{} }

// NewGCPSecretManagerHandler refuses when it is used.
func NewGCPSecretManagerHandler(*kedav1alpha1.GCPSecretManager) leftOut { return leftOut{} }

type awsLeftOut struct{}

func (awsLeftOut) Initialize(
	context.Context, client.Client, logr.Logger, string, corev1listers.SecretLister, *corev1.PodSpec,
) error {
	return errLeftOut
}

func (awsLeftOut) Read(context.Context, logr.Logger, string, string, string, string) (string, error) {
	return "", errLeftOut
}

func (awsLeftOut) Stop() {}

// NewAwsSecretManagerHandler refuses when it is used.
func NewAwsSecretManagerHandler(*kedav1alpha1.AwsSecretManager) awsLeftOut { return awsLeftOut{} }
