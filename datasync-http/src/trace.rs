//! Events of the crate `tracing` for each exchange, with the feature `tracing`; nothing without it. They stand in the spans of
//! core, which say what they belong to.
//!
//! Fields are numbers and kinds of failures. An address, whose query may hold values, a header or a body is never one of
//! them (I21).

/// Tells of something, at the level of debugging.
#[cfg(feature = "tracing")]
macro_rules! tell {
    ($message:literal $(, $field:ident = $value:expr)*) => {
        ::tracing::debug!(target: "datasync", $($field = $value,)* $message)
    };
}

/// Tells of nothing.
#[cfg(not(feature = "tracing"))]
macro_rules! tell {
    ($message:literal $(, $field:ident = $value:expr)*) => {{
        $(let _ = &$value;)*
    }};
}
