/**
 * An echo server in Java: a virtual thread per connection, on as many cores as there are.
 *
 * Listens on a port of 127.0.0.1, prints it as {"port": N}, and sends back what it gets until it is ended.
 */
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;

public class Echo {
    private static void serve(Socket socket) {
        try (socket) {
            socket.setTcpNoDelay(true);
            InputStream input = socket.getInputStream();
            OutputStream output = socket.getOutputStream();
            byte[] buffer = new byte[65536];
            for (int n; (n = input.read(buffer)) >= 0;) {
                output.write(buffer, 0, n);
            }
        } catch (IOException broken) {
            // The client has gone.
        }
    }

    public static void main(String[] arguments) throws IOException {
        try (ServerSocket listener = new ServerSocket(0, 4096, InetAddress.getLoopbackAddress())) {
            System.out.println("{\"port\": " + listener.getLocalPort() + "}");
            while (true) {
                Socket socket = listener.accept();
                Thread.startVirtualThread(() -> serve(socket));
            }
        }
    }
}
