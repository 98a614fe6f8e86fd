//! A proxy of TCP connections that can be cut, between a host and a server.

use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A running proxy. It ends when the value is dropped.
pub struct Cut {
    address: SocketAddr,
    /// Rises with each cut. An odd number means that no connection is taken.
    cuts: Arc<watch::Sender<u64>>,
    _runtime: Runtime,
}

impl Cut {
    /// Starts a proxy in front of a server.
    pub fn before(server: SocketAddr) -> Self {
        let runtime = Runtime::new().expect("start a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("bind a port");
        let address = listener.local_addr().expect("a bound address");
        let cuts = Arc::new(watch::Sender::new(0));
        let watched = cuts.clone();
        runtime.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = watched.subscribe();
                if *cut.borrow_and_update() % 2 == 1 {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(server).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts, _runtime: runtime }
    }

    /// Returns its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections. New ones are taken.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 2);
    }

    /// Ends all connections, and takes no new ones while `meanwhile` runs.
    pub fn apart<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        self.cuts.send_modify(|cuts| *cuts += 1);
        let result = meanwhile();
        self.cuts.send_modify(|cuts| *cuts += 1);
        result
    }
}
