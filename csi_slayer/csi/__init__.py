"""The gRPC services that the kubelet and the Kubernetes sidecars call; no policy of their own."""
