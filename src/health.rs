//! Whether this proxy does its work, for load balancers and the kubelet.
