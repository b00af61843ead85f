//! The HTTP transport of Datasync for Rust.
//!
//! ```
//! use datasync_http::HttpTransport;
//! let transport = HttpTransport::new("http://localhost:8080")?;
//! # let _ = transport;
//! # Ok::<(), datasync_http::HttpConfigError>(())
//! ```
//!
//! The protocol is a codec that does no I/O: requests out, responses in. Beneath it lies one small seam,
//! [`Exchange`]; the client behind it is [`surf`], with an `HttpClient` of ours over `reqwest`. It runs on the tokio
//! runtime that is current, on a handle given to the builder, or else on one worker thread of its own.
//!
//! An app that uses `reqwest` without TLS beside this crate's feature `tls` must install a crypto provider of `rustls`
//! before it builds a client of its own, or switch TLS on there too: `reqwest` takes its features from both.
//!
//! With the feature `tls`, on by default, it speaks https: rustls with ring, the authorities of the system and those that
//! the builder is given. Without it `https` needs a `surf::Client` of the app's own.

#[macro_use]
mod trace;

mod auth;
mod codec;
mod compression;
mod config;
mod exchange;
mod joint;
mod listening;
mod page_size;
mod reqwest_client;
mod retry;
mod surf_client;
#[cfg(feature = "tls")]
mod tls;
mod transport;

pub use auth::{AccessToken, TokenError, TokenProvider};
pub use config::{HttpConfigError, HttpTransportBuilder};
pub use exchange::{Exchange, ExchangeError, ExchangeErrorKind, HttpRequest, HttpResponse, HttpStream, Method};
pub use transport::HttpTransport;
