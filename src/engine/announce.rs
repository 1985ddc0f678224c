//! Happenings of tasks and of the manager, each said once: the event, the log record and the count.
