//! Adapters to web frameworks: one file for each, behind its feature.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
mod tonic;

use std::net::SocketAddr;

use http::{Extensions, Uri};

/// Returns the peer's address if a framework's server noted it.
#[cfg_attr(
    not(any(feature = "axum", feature = "tonic")),
    expect(unused_variables)
)]
pub(crate) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    let address = None;
    #[cfg(feature = "axum")]
    let address = address.or_else(|| axum::peer(extensions));
    #[cfg(feature = "tonic")]
    let address = address.or_else(|| tonic::peer(extensions));
    address
}

/// Returns the route that a framework's router matched, as it was given to the router.
#[cfg_attr(not(feature = "axum"), expect(unused_variables))]
pub(crate) fn matched_route(extensions: &Extensions) -> Option<&str> {
    #[cfg(feature = "axum")]
    let route = axum::matched_route(extensions);
    #[cfg(not(feature = "axum"))]
    let route = None;
    route
}

/// Returns a copy of the request's URI that a framework keeps beside it.
#[cfg_attr(not(feature = "axum"), expect(unused_variables))]
pub(crate) fn original_uri(extensions: &mut Extensions) -> Option<&mut Uri> {
    #[cfg(feature = "axum")]
    let uri = axum::original_uri(extensions);
    #[cfg(not(feature = "axum"))]
    let uri = None;
    uri
}
