//! What clients send, and the service that they want to reach.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderValue, Response};
use http_body_util::Empty;
use tower::Service;
use tower_api_key::http::PeerAddr;

use super::random::Random;

pub(crate) type Request = http::Request<Empty<Bytes>>;

/// The credentials that the requests of a case carry.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// Any of these keys.
    AnyOf(Rc<[Box<str>]>),
    /// Any of these keys, from a client with an address and a country.
    Addressed(Rc<[Box<str>]>),
    None,
}

impl Credentials {
    pub(crate) fn one(key: &str) -> Self {
        Self::AnyOf([key.into()].into())
    }

    /// Requests with keys in an order that no cache foresees.
    pub(crate) fn draw(&self, count: usize, random: &mut Random, requests: &mut Vec<Request>) {
        requests.extend((0..count).map(|_| match self {
            Self::AnyOf(keys) => request(Some(&keys[random.below(keys.len())])),
            Self::Addressed(keys) => addressed(&keys[random.below(keys.len())]),
            Self::None => request(None),
        }));
    }

    /// A request with each of the keys, one after the other.
    pub(crate) fn each(&self) -> impl Iterator<Item = Request> {
        let (keys, without) = match self {
            Self::AnyOf(keys) | Self::Addressed(keys) => (&keys[..], None),
            Self::None => (&[][..], Some(request(None))),
        };
        let is_addressed = matches!(self, Self::Addressed(_));
        let with = move |key: &str| {
            if is_addressed {
                addressed(key)
            } else {
                request(Some(key))
            }
        };
        keys.iter().map(move |key| with(key)).chain(without)
    }
}

/// The header in which a proxy tells the country of a client.
pub(crate) const COUNTRY: &str = "cf-ipcountry";

/// A request of a client that always has the same address.
fn addressed(key: &str) -> Request {
    let mut request = request(Some(key));
    let headers = request.headers_mut();
    headers.insert(COUNTRY, HeaderValue::from_static("DE"));
    let client = key
        .bytes()
        .fold(7, |sum: u32, byte| sum.wrapping_mul(31) ^ u32::from(byte));
    let client = SocketAddr::from((Ipv4Addr::from_bits(client), 443));
    request.extensions_mut().insert(PeerAddr(client));
    request
}

/// A GET as a client of an API sends it.
pub(crate) fn request(key: Option<&str>) -> Request {
    let mut request = http::Request::new(Empty::new());
    *request.uri_mut() = http::Uri::from_static("/v1/facts");
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_static("api.example.com"));
    headers.insert(USER_AGENT, HeaderValue::from_static("acme-sync/2.1"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(key) = key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        headers.insert(AUTHORIZATION, value.expect("a key is visible ASCII"));
    }
    request
}

/// The service behind everything: it is ready at once, and its answer is small.
#[derive(Clone)]
pub(crate) struct Bare;

impl<B> Service<http::Request<B>> for Bare {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        drop(black_box(request));
        let mut response = Response::new(Body::from("a fact\n"));
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        ready(Ok(response))
    }
}
