//! A publisher below every library, for messages that no library makes and every broker passes on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// Bits of the properties that are used, in their order (AMQP 0-9-1, 4.2.6.1).
const HEADERS: u16 = 1 << 13;
const DELIVERY_MODE: u16 = 1 << 12;
const CORRELATION_ID: u16 = 1 << 10;

/// Properties in the bytes of the wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bytes {
    /// What is in the table of headers, without its length.
    pub(crate) headers: Vec<u8>,
    pub(crate) correlation_id: Vec<u8>,
}

/// A channel with confirms.
pub(crate) struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Logs in as the URL says.
    pub(crate) fn connect(url: &str) -> Self {
        let url = url::Url::parse(url).expect("an address");
        let address = (url.host_str().expect("a host"), url.port().expect("a port"));
        let stream = TcpStream::connect(address).expect("a broker");
        let wait = Some(Duration::from_secs(60));
        stream.set_read_timeout(wait).expect("a timeout");
        let mut raw = Self { stream };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").expect("written");
        raw.wait(10, 10);
        let word = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let (user, password) = (word(url.username()), word(url.password().expect("one")));
        let login = [&[0], &user[..], &[0], &password].concat();
        let host = match url.path() {
            "" | "/" => b"/".to_vec(),
            path => word(path.trim_start_matches('/')),
        };
        let start = [
            &[0; 4],
            &short(b"PLAIN")[..],
            &long(&login),
            &short(b"en_US"),
        ]
        .concat();
        raw.method(0, 10, 11, &start);
        raw.wait(10, 30);
        raw.method(0, 10, 31, &[7, 255, 0, 2, 0, 0, 0, 0]);
        raw.method(0, 10, 40, &[&short(&host)[..], &[0, 0]].concat());
        raw.wait(10, 41);
        raw.method(1, 20, 10, &short(b""));
        raw.wait(20, 11);
        raw.method(1, 85, 10, &[0]);
        raw.wait(85, 11);
        raw
    }

    /// Publishes a persistent message; the broker has it then.
    pub(crate) fn publish(&mut self, exchange: &str, key: &[u8], body: &[u8], bytes: &Bytes) {
        let to = [&[0, 0], &short(exchange.as_bytes())[..], &short(key), &[0]].concat();
        self.method(1, 60, 40, &to);
        let flags = HEADERS | DELIVERY_MODE | CORRELATION_ID;
        let size = (body.len() as u64).to_be_bytes();
        let head = [&[0, 60, 0, 0], &size[..], &flags.to_be_bytes()].concat();
        let correlation_id = short(&bytes.correlation_id);
        let properties = [&long(&bytes.headers)[..], &[2], &correlation_id].concat();
        self.frame(2, 1, &[head, properties].concat());
        self.frame(3, 1, body);
        self.wait(60, 80);
    }

    fn method(&mut self, channel: u8, class: u8, method: u8, arguments: &[u8]) {
        let name = [0, class, 0, method];
        self.frame(1, channel, &[&name, arguments].concat());
    }

    fn frame(&mut self, kind: u8, channel: u8, payload: &[u8]) {
        let frame = [&[kind, 0, channel], &long(payload)[..], &[0xce]].concat();
        self.stream.write_all(&frame).expect("written");
    }

    /// Reads until this method; panics at a close.
    fn wait(&mut self, class: u8, method: u8) {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).expect("a frame");
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
            let mut payload = vec![0; size as usize + 1];
            self.stream.read_exact(&mut payload).expect("its payload");
            match (head[0], &payload[..]) {
                (1, [0, a, 0, b, ..]) if (*a, *b) == (class, method) => return,
                (1, [0, 10, 0, 50, ..] | [0, 20, 0, 40, ..]) => {
                    panic!("closed: {}", String::from_utf8_lossy(&payload))
                }
                _ => {}
            }
        }
    }
}

/// A short string.
pub(crate) fn short(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("at most 255 bytes");
    [&[length], bytes].concat()
}

/// A long string, or what is in a table or an array.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("less than 4 GB");
    [&length.to_be_bytes(), bytes].concat()
}
