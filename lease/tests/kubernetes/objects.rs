//! What is particular to this store: its objects, permissions and errors.
