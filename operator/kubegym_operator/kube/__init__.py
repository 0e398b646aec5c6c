"""The Kubernetes API: plain objects in and out, no kind of ours."""
