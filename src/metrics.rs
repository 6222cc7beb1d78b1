//! What is measured, under the names that dashboards know.
