//! From objects to a ServiceTable: the only place that decides what a Service means.
