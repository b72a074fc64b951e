import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Posts a request's body with Java's own client as it comes, which offers HTTP/2 with each request.
 *
 * Arguments: the URL, a file with the body, and how to send it, several times over. A line for each answer: its status,
 * the protocol, and its bytes with line ends as \n.
 */
public class Client {
    public static void main(String[] arguments) throws Exception {
        var uri = URI.create(arguments[0]);
        var body = Files.readAllBytes(Path.of(arguments[1]));
        var client = HttpClient.newHttpClient();
        for (var how : java.util.List.of(arguments).subList(2, arguments.length)) {
            var request = HttpRequest.newBuilder(uri).header("Content-Type", "application/json");
            switch (how) {
                case "whole" -> request.POST(BodyPublishers.ofByteArray(body));
                case "chunks" -> request.POST(BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body)));
                case "expect" -> request.expectContinue(true).POST(BodyPublishers.ofByteArray(body));
                default -> throw new IllegalArgumentException(how);
            }
            var answer = client.send(request.build(), BodyHandlers.ofString());
            var text = answer.body().replace("\n", "\\n");
            System.out.println(answer.statusCode() + " " + answer.version() + " " + text);
        }
    }
}
