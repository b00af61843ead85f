//! Spans of the crate `tracing` around what takes time, with the feature `tracing`; nothing without it.
//!
//! Fields are names of tables and numbers. A body, a filter, a token or the name of an account is never one of them (I21).

/// Runs a future inside a span of that name.
#[cfg(feature = "tracing")]
macro_rules! traced {
    ($future:expr, $name:literal $(, $field:ident = $value:expr)*) => {
        ::tracing::Instrument::instrument(
            $future,
            ::tracing::debug_span!(target: "datasync", $name $(, $field = %$value)*),
        )
    };
}

/// The future as it is.
#[cfg(not(feature = "tracing"))]
macro_rules! traced {
    ($future:expr, $name:literal $(, $field:ident = $value:expr)*) => {{
        $(let _ = &$value;)*
        $future
    }};
}
