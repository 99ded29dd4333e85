//! Providers that answer every cancel in Midtrans' words: at once, later, or never.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What it says to every call.
#[derive(Clone)]
pub(crate) enum Answer {
    /// Cancelled, at once.
    Cancelled,
    /// Cancelled, after so long; what it really took is written down.
    After(Duration, Taken),
    /// 429 with an hour to wait: the request stays open.
    Later,
    /// Nothing: it reads and keeps the connection.
    Never,
}

/// For each order the time from having read its call to having written the answer.
pub(crate) type Taken = Arc<Mutex<HashMap<String, Duration>>>;

/// It runs until this is dropped.
pub(crate) struct Provider {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Starts it on a free port.
pub(crate) async fn start(answer: Answer) -> Provider {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer.clone()));
        }
    });
    Provider { address, accepting }
}

async fn serve(mut stream: TcpStream, answer: Answer) {
    drop(stream.set_nodelay(true));
    let mut read = Vec::with_capacity(4096);
    loop {
        while let Some(end) = end_of_head(&read) {
            let order = order_id(&read[..end]);
            read.drain(..end);
            if reply(&mut stream, &answer, order).await.is_err() {
                return;
            }
        }
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The calls that it knows have no body.
fn end_of_head(read: &[u8]) -> Option<usize> {
    read.windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn order_id(head: &[u8]) -> String {
    let line = std::str::from_utf8(head).unwrap_or_default();
    line.split('/').nth(2).unwrap_or_default().to_owned()
}

async fn reply(stream: &mut TcpStream, answer: &Answer, order: String) -> std::io::Result<()> {
    let began = Instant::now();
    match answer {
        Answer::Cancelled => stream.write_all(cancelled(&order).as_bytes()).await,
        Answer::Later => stream.write_all(LATER).await,
        Answer::Never => Ok(()),
        Answer::After(delay, taken) => {
            tokio::time::sleep(*delay).await;
            stream.write_all(cancelled(&order).as_bytes()).await?;
            taken.lock().unwrap().insert(order, began.elapsed());
            Ok(())
        }
    }
}

const LATER: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n";

fn cancelled(order: &str) -> String {
    let body = format!(
        r#"{{"status_code":"200","status_message":"Success, transaction is canceled","order_id":"{order}","transaction_status":"cancel","gross_amount":"30000.00"}}"#
    );
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
