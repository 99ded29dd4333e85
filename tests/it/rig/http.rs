//! The smallest HTTP client: one request to a loopback address, the whole answer.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A question that is asked again, e.g. whether a worker is ready.
const QUESTION: Duration = Duration::from_secs(5);
/// What is asked once, of a machine that may be busy.
const ONCE: Duration = Duration::from_secs(30);

/// `GET path`; answers the status and the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    send(address, "GET", path, &[], b"", QUESTION)
}

/// The same of what is there and is not asked again.
pub(crate) fn get_once(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    send(address, "GET", path, &[], b"", ONCE)
}

/// `POST path` with headers and a body.
pub(crate) fn post(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<(u16, String)> {
    send(address, "POST", path, headers, body, ONCE)
}

fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    patience: Duration,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    // HTTP/1.0: the answer ends with the connection and is never chunked.
    let mut head = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::other("not an HTTP answer"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}
