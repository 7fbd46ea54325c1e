package auditship;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;
import java.util.regex.Pattern;
import org.apache.lucene.analysis.TokenStream;
import org.apache.lucene.analysis.email.UAX29URLEmailTokenizer;
import org.apache.lucene.analysis.miscellaneous.RemoveDuplicatesTokenFilter;
import org.apache.lucene.analysis.pattern.PatternCaptureGroupTokenFilter;
import org.elasticsearch.index.analysis.TokenFilterFactory;
import org.elasticsearch.index.analysis.TokenizerFactory;
import org.elasticsearch.indices.analysis.AnalysisModule.AnalysisProvider;
import org.elasticsearch.plugins.AnalysisPlugin;
import org.elasticsearch.plugins.Plugin;

/**
 * A plugin for Elasticsearch's small distribution. The index in which its security feature keeps API keys names three
 * parts of text analysis that the distribution leaves out; this gives them, from the libraries that it does have.
 */
public final class AnalysisParts extends Plugin implements AnalysisPlugin {
  @Override
  public Map<String, AnalysisProvider<TokenFilterFactory>> getTokenFilters() {
    Map<String, AnalysisProvider<TokenFilterFactory>> filters = new HashMap<>();
    filters.put("unique", (index, environment, name, settings) -> new Part(name, RemoveDuplicatesTokenFilter::new));
    filters.put("pattern_capture", (index, environment, name, settings) -> {
      List<String> texts = settings.getAsList("patterns");
      boolean original = settings.getAsBoolean("preserve_original", true);
      Pattern[] patterns = texts.stream().map(Pattern::compile).toArray(Pattern[]::new);
      return new Part(name, stream -> new PatternCaptureGroupTokenFilter(stream, original, patterns));
    });
    return filters;
  }

  @Override
  public Map<String, AnalysisProvider<TokenizerFactory>> getTokenizers() {
    return Map.of(
        "uax_url_email",
        (index, environment, name, settings) -> TokenizerFactory.newFactory(name, UAX29URLEmailTokenizer::new));
  }

  private record Part(String name, UnaryOperator<TokenStream> step) implements TokenFilterFactory {
    @Override
    public TokenStream create(TokenStream stream) {
      return step.apply(stream);
    }
  }
}
