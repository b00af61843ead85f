//! The protocol without I/O: what is asked, and what an answer means (the originals' current dialect).

pub(crate) mod paging;
pub(crate) mod request;
pub(crate) mod response;
