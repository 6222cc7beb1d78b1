//! What plans look like and how long they are.
