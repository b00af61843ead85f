//! The protocol without I/O: what is asked, and what an answer means (the originals' current dialect).

pub(crate) mod batch;
pub(crate) mod capabilities;
pub(crate) mod events;
pub(crate) mod paging;
pub(crate) mod position;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod sent;
